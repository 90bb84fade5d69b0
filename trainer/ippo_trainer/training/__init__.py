"""What every training loop shares: optimiser, learning rate, state on disk, save cadence, progress, ranks."""
