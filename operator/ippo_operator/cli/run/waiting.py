"""How far a run is with its customers: conversations until it collects, and its A/B test."""

from dataclasses import dataclass

from ippo_operator.api.status import CanaryStatus, LiveStatus, RunStatus


@dataclass(frozen=True)
class LiveProgress:
    """What is waited for, and how far that is."""

    what: str
    count: str
    share: float | None = None
    """From 0 to 1; None where nobody knows when it ends."""


def live_progress(status: RunStatus) -> LiveProgress | None:
    """What the run waits for from its customers; None where it does not."""
    rows = [row for row in status.iterations if row.canary is not None]
    canary = rows[-1].canary if rows else None
    if canary is not None and canary.finished_at is None:
        return _canary(rows[-1].iteration, canary)
    live = status.live
    if live is None or live.until is not None or not live.wanted_conversations:
        return None
    return _conversations(status.iteration, live)


def _canary(iteration: int, canary: CanaryStatus) -> LiveProgress:
    what = f"A/B test of iteration {iteration}"
    if canary.started_at is None:
        return LiveProgress(what, "waits for the candidate's server")
    candidate, control = canary.candidate, canary.control
    counts = (
        f"candidate {candidate.outcomes}/{candidate.conversations}, current {control.outcomes}/{control.conversations}"
    )
    return LiveProgress(what, f"{counts}, lift {canary.lift:+.3f} ({canary.low:+.3f} to {canary.high:+.3f})")


def _conversations(iteration: int, live: LiveStatus) -> LiveProgress:
    conversations, outcomes = live.conversations - live.earlier_conversations, live.outcomes - live.earlier_outcomes
    shares = conversations / live.wanted_conversations, outcomes / max(1, live.wanted_outcomes)
    count = (
        f"{conversations}/{live.wanted_conversations} conversations, {outcomes}/{live.wanted_outcomes} with the outcome"
    )
    if live.trouble is not None:
        count = live.trouble.message
    return LiveProgress(f"iteration {iteration} collects", count, max(0.0, min(1.0, *shares)))
