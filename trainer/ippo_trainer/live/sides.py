"""Counts of conversations for an `ArmReport`, and which of them are the two sides of an A/B test.

A test may be looked at as often as one likes, but not at conversations that were chosen by what came of them. That an
outcome came is known at once, that none comes only when the window is over; and where customers of the candidate talk
for longer, all of it is known later there. So the conversations that count are all that began in the time of the test
before the first one whose outcome is not known yet. They are the candidate's or the control's by `assignment`, whoever
answered.

So that one conversation cannot hold up a test for ever, one that began more than `_LONGEST` and its window ago counts
with what is known of it.
"""

from collections.abc import Sequence
from typing import Any

from ippo_trainer.contract.live import ArmReport, CanaryRoute, Route
from ippo_trainer.live.table import EventTable

_LONGEST = 86_400.0
"""Seconds that a conversation may last, to be waited for in a test."""
_RECENT = 10_000
"""Conversations whose answers are timed: the newest."""
_NAMES = ("began", "closed", "conversations", "outcomes", "accepted", "abstained", "complaints")
_NEWEST = "ORDER BY began DESC, name LIMIT :recent"
_TIMED = "SELECT seconds, count(*) FROM answers WHERE conversation IN newest GROUP BY seconds ORDER BY seconds"
_TEST = "FROM conversations WHERE began >= :since AND persona = ''"
_CANDIDATE = "in_canary(:candidate, name, :share)"


def sides(
    table: EventTable, active: Route, canary: CanaryRoute, window: float, now: float
) -> tuple[ArmReport, ArmReport]:
    """The active policy's side of a test, and the candidate's.

    Args:
        table: of all conversations.
        active: the policy besides the candidate.
        canary: the test.
        window: seconds after a conversation in which an outcome counts.
        now: seconds since 1970 UTC.
    """
    test: dict[str, Any] = {"since": canary.since, "now": now, "candidate": canary.route.digest}
    test["share"] = float(canary.settings.share)
    late = f"SELECT min(began) {_TEST} AND known_at > :now AND began > :oldest"
    [(first,)] = table.query(late, **test, oldest=now - window - _LONGEST)
    test["ripe"] = now if first is None else first
    rows = table.query(f"SELECT {_CANDIDATE}, {sums('began < :ripe')} {_TEST} GROUP BY 1", **test)
    counts, nothing = {bool(mine): row for mine, *row in rows}, [0] * len(_NAMES)
    control, candidate = (
        arm(table, digest, counts.get(mine, nothing), f"SELECT name {_TEST} AND {_CANDIDATE} = {mine:d}", test)
        for mine, digest in ((False, active.digest), (True, canary.route.digest))
    )
    return control, candidate


def sums(counting: str) -> str:
    """The counts of an `ArmReport`, for a SELECT; all but the first two of the conversations that are `counting`."""
    columns = ["count(*)", "total(over_at <= :now)", f"total({counting})"]
    columns += [f"total({counting} AND outcome AND known_at <= :now)"]
    return ", ".join([*columns, *(f"total({counting} AND {each})" for each in ("accepted", "abstained", "complaint"))])


def arm(table: EventTable, digest: str, row: Sequence[Any], names: str, values: dict[str, Any]) -> ArmReport:
    """A report.

    Args:
        table: of all conversations.
        digest: of the policy.
        row: its `sums`.
        names: SELECT of the names of its conversations, whose answers are timed.
        values: parameters of `names`.
    """
    timed = table.query(f"WITH newest AS ({names} {_NEWEST}) {_TIMED}", **values, recent=_RECENT)
    counts = dict(zip(_NAMES, map(int, row), strict=True))
    return ArmReport(digest=digest, **counts, seconds=percentile(list(timed)))


def percentile(counts: list[tuple[float, int]]) -> float | None:
    """The 95th percentile of values with their counts, in order: the least that as many are not above."""
    rank, below = 0.95 * sum(count for _, count in counts), 0
    for value, count in counts:
        below += count
        if below >= rank:
            return value
    return None
