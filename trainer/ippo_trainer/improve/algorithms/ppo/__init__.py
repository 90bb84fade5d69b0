"""Token-level PPO (arXiv 1707.06347) with a separate critic."""

from ippo_trainer.improve.algorithms.ppo.algorithm import PPO as PPO
