"""Token-level PPO (arXiv 1707.06347) with a separate critic."""

from ippo_trainer.improve.algorithm import Task
from ippo_trainer.improve.algorithms.ppo.algorithm import PPO


def make(task: Task) -> PPO:
    """PPO for a task, with a critic that starts from Q."""
    return PPO(task)
