"""Improvement operators, one module each; see `ippo_trainer.ppo.operators`."""
