"""Log lines of processes on standard error, and never a secret."""
