"""What people said who saw suggestions of two policies side by side, without knowing whose they were."""

from typing import Annotated

from pydantic import Field

from ippo_trainer.contract.params import Model

Votes = Annotated[int, Field(ge=0, le=1_000_000)]
_QUANTILE = 1.959963984540054


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
        if not count:
            return None
        share, square = self.candidate / count, _QUANTILE**2
        centre = (share + square / (2 * count)) / (1 + square / count)
        half = _QUANTILE / (1 + square / count) * (share * (1 - share) / count + square / (4 * count * count)) ** 0.5
        return share, max(0.0, centre - half), min(1.0, centre + half)

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
