"""What a run waits for from its customers: conversations, or the A/B test of a candidate."""

from collections.abc import Iterator
from datetime import datetime

from ippo_operator.api.status import ArmCounts, CanaryStatus, LiveStatus, RunStatus
from ippo_operator.cli.drawing import bar
from ippo_operator.plan.figures import span_in_words

_WIDTH = 13


def customer_lines(status: RunStatus, time: datetime) -> list[str]:
    """Bars of what is there already, or the counts of both sides; nothing where customers are not waited for."""
    last = status.iterations[-1] if status.iterations else None
    canary = last.canary if last is not None and last.promoted is None else None
    if canary is not None:
        return list(_test(canary, time))
    waits = status.live is not None and status.live.until is None and status.live.wanted_conversations
    return list(_conversations(status.live, time)) if waits and status.live is not None else []


def _conversations(record: LiveStatus, time: datetime) -> Iterator[str]:
    counts = (
        ("conversations", record.conversations, record.earlier_conversations, record.wanted_conversations),
        ("outcomes", record.outcomes, record.earlier_outcomes, record.wanted_outcomes),
    )
    for name, number, earlier, wanted in counts:
        share = (number - earlier) / (wanted - earlier) if wanted > earlier else 1.0
        more = f", {earlier} of them collected before" if earlier else ""
        yield f"  {name:{_WIDTH}} {bar(max(0.0, share))} {number}/{wanted}{more}"
    if record.counted_at is not None:
        yield f"  counted {span_in_words((time - record.counted_at).total_seconds())} ago"


def _test(canary: CanaryStatus, time: datetime) -> Iterator[str]:
    if canary.started_at is None:
        return
    span = span_in_words(((canary.finished_at or time) - canary.started_at).total_seconds())
    yield f"  A/B test, {'for ' if canary.finished_at is None else 'over after '}{span}:"
    yield f"  {'candidate':{_WIDTH}} {_rate(canary.candidate)}"
    yield f"  {'before it':{_WIDTH}} {_rate(canary.control)}"
    bounds = f"{canary.low:+.4f} to {canary.high:+.4f}, at every look"
    yield f"  {'lift':{_WIDTH}} {canary.lift:+.4f}  ({bounds})"
    if canary.counted_at is not None:
        yield f"  counted {span_in_words((time - canary.counted_at).total_seconds())} ago"


def _rate(arm: ArmCounts) -> str:
    share = f"{arm.outcomes / arm.conversations:.1%}" if arm.conversations else "-"
    return f"{share:>7}  {arm.outcomes} of {arm.conversations} conversations"
