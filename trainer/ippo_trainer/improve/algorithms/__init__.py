"""Improvement algorithms, a module each; see `ippo_trainer.improve.algorithm`."""
