"""What people said who saw suggestions of two policies side by side, without knowing whose they were."""

from typing import Annotated

from pydantic import Field

from ippo_trainer.contract.params import Model

Votes = Annotated[int, Field(ge=0, le=1_000_000)]
_QUANTILE = 1.959963984540054


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The bounds of Wilson's 95 % interval of a share; `whole` is above 0."""
    share, square = part / whole, _QUANTILE**2
    centre = (share + square / (2 * whole)) / (1 + square / whole)
    half = _QUANTILE / (1 + square / whole) * (share * (1 - share) / whole + square / (4 * whole * whole)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


class Judgement(Model):
    """Votes on a candidate, which `ippo judge` counts: evidence for who answers."""

    iteration: Annotated[int, Field(ge=1, le=1000)]
    """Whose candidate was judged."""
    candidate: Votes
    """For the candidate's suggestion."""
    current: Votes
    """For the current policy's."""
    same: Votes
    """For neither."""

    @property
    def decided(self) -> int:
        """Votes for one of the two."""
        return self.candidate + self.current

    def preference(self) -> tuple[float, float, float] | None:
        """Share of the votes for one of the two that are for the candidate, and the bounds of Wilson's 95 % interval.

        None without such votes. One state of each conversation is judged, so votes are independent.
        """
        count = self.decided
        return (self.candidate / count, *wilson(self.candidate, count)) if count else None

    def in_words(self) -> str:
        """A clause."""
        preference = self.preference()
        same = f", {self.same} the same" if self.same else ""
        if preference is None:
            return f"people who saw both, without knowing whose they were, preferred neither{same}"
        share, low, high = preference
        return (
            f"people who saw both, without knowing whose they were, preferred the candidate's suggestion in "
            f"{self.candidate} of {self.decided} states ({share:.0%}, 95% interval {low:.0%} to {high:.0%}){same}"
        )
