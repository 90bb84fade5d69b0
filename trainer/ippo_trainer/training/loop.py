"""What a stage needs of a training: to run it step by step, to show where it is, and to save and restore it."""

from collections.abc import Callable
from typing import Protocol

from ippo_trainer.training.checkpoint import ResumableTraining


class Loop(ResumableTraining, Protocol):
    """A training that is complete after every step: saved there and restored, it ends as if it had never stopped."""

    @property
    def steps(self) -> int:
        """Steps so far."""
        ...

    @property
    def total(self) -> int:
        """The most steps that there can be."""
        ...

    def figures(self) -> dict[str, float]:
        """What a progress bar shows beside the steps."""
        ...

    def run(self, after_step: Callable[[], None]) -> None:
        """Trains to the end; `after_step` comes after every step, and may save, report or raise."""
        ...
