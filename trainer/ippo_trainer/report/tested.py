"""A/B tests of candidates, as the run's status has them. Its text is untrusted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ippo_trainer.report.model import Cycle, Read


class _Counts(Read):
    conversations: int = 0
    outcomes: int = 0


class _Test(Read):
    candidate: _Counts = _Counts()
    control: _Counts = _Counts()
    lift: float = 0.0
    low: float = -1.0
    high: float = 1.0
    reason: str = ""

    def in_words(self) -> str:
        """Why it ended, or how far it is."""
        if self.reason:
            return f"A/B test: {self.reason}"
        if not self.candidate.conversations or not self.control.conversations:
            return "A/B test: no conversation counts yet."
        sides = (
            f"{side.outcomes:,} outcomes of {side.conversations:,} conversations {whose}"
            for side, whose in ((self.candidate, "of the candidate"), (self.control, "of the policy before it"))
        )
        return f"A/B test so far: {', '.join(sides)}: {self.lift:+.4f} ({self.low:+.4f} to {self.high:+.4f})."


class _Iteration(Read):
    iteration: int
    promoted: bool | None = None
    canary: _Test | None = None


def with_tests(cycles: Sequence[Cycle], settings: dict[str, Any]) -> list[Cycle]:
    """The cycles, those that were put to the test with its outcome.

    Args:
        cycles: in any order.
        settings: the run as JSON; without a status nothing is known of tests.
    """
    status = settings.get("status")
    rows = status.get("iterations") if isinstance(status, dict) else None
    records = {row.iteration: row for each in rows or () if (row := _read(each)) is not None}
    return [_tested(cycle, records.get(cycle.iteration)) for cycle in cycles]


def _read(row: Any) -> _Iteration | None:
    """None of what another version wrote."""
    try:
        return _Iteration.model_validate(row)
    except ValidationError:
        return None


def _tested(cycle: Cycle, row: _Iteration | None) -> Cycle:
    if row is None or row.canary is None:
        return cycle
    return replace(cycle, test=row.canary.in_words(), settled=row.promoted)
