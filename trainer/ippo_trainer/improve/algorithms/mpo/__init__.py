"""Maximum a posteriori policy optimisation (arXiv 1806.06920) on logged states: weighted likelihood of candidates."""

from ippo_trainer.improve.algorithm import Task
from ippo_trainer.improve.algorithms.mpo.algorithm import MPO


def make(task: Task) -> MPO:
    """MPO for a task. It asks for the explorer."""
    return MPO(task)
