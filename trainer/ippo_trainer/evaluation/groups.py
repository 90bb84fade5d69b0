"""Values of policies by group of a log, as an evaluation publishes them and the report reads them."""

from pydantic import BaseModel, ConfigDict

LEAST_CONVERSATIONS, LEAST_OUTCOMES = 50, 5
"""Of a group's held-out ones, with fewer of which an interval says nothing (and, of so few outcomes, is too narrow)."""


class GroupValue(BaseModel):
    """Of one group."""

    model_config = ConfigDict(extra="ignore")

    conversations: int
    """Held-out ones."""
    outcomes: int
    """Of these, with the outcome."""
    current: float | None = None
    """Value of the policy before; None where the group is too small."""
    candidate: float | None = None
    lift: tuple[float, float, float] | None = None
    """What the candidate's is more: the estimate, the interval's ends."""


class GroupValues(BaseModel):
    """By name, the largest first."""

    model_config = ConfigDict(extra="ignore")

    groups: dict[str, GroupValue]
