"""What live conversations come to, counted slowly: all events in memory, every question by a loop."""

from collections import Counter
from dataclasses import dataclass

from ippo_trainer.contract.live import ArmReport, LiveReport, PersonaReport, Routes
from ippo_trainer.live.conversations import LiveConversation, fold
from ippo_trainer.live.events import Event
from ippo_trainer.live.standing import Rules


@dataclass
class Row:
    """A conversation and how it stands."""

    live: LiveConversation
    over: bool
    known: bool
    outcome: bool
    complaint: bool


def once(events: list[Event]) -> list[Event]:
    """Each event once, the earliest of those that share an id."""
    first: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event["time"]):
        first.setdefault(event["event_id"], event)
    return list(first.values())


def conversations(events: list[Event], rules: Rules, now: float) -> list[Row]:
    """All conversations."""
    unique = once(events)
    folded = []
    for name in sorted({event["conversation_id"] for event in unique} - {""}):
        mine = [event for event in unique if event["conversation_id"] == name]
        others = sorted((e for e in mine if e["kind"] != "suggestion"), key=lambda e: (e["time"], e["event_id"]))
        suggestions = [e for e in mine if e["kind"] == "suggestion"]
        suggestions.sort(key=lambda e: (e["suggestion"]["turn"], e["time"]))
        live = fold(name, others, suggestions, rules, Counter())
        if live is not None:
            folded.append(live)
    return [_row(live, folded, unique, rules, now) for live in folded]


def _row(live: LiveConversation, folded: list[LiveConversation], events: list[Event], rules: Rules, now: float) -> Row:
    theirs = [e for e in events if not e["conversation_id"] and _owner(e, folded, rules) is live]
    said = [(each.time, each.at, each.outcome) for each in live.told]
    said += [(e["time"], min(e["at"], e["time"]), e["outcome"]) for e in theirs if e["kind"] == "outcome"]
    said = [each for each in said if live.course.began <= each[1] <= live.course.last + rules.window]
    complaint = live.complaint or any(e["kind"] == "complaint" for e in theirs)
    closed = live.course.closed is not None and live.course.closed <= now
    over = closed or now >= live.course.last + rules.idle
    if not said:
        return Row(live, over, over and now >= live.course.last + rules.window, False, complaint)
    last = max(said)
    return Row(live, over or last[2], over or last[2], last[2], complaint)


def _owner(event: Event, folded: list[LiveConversation], rules: Rules) -> LiveConversation | None:
    """The conversation that an event of a customer belongs to."""
    at = min(event["at"], event["time"])
    candidates = [
        live
        for live in folded
        if live.content.customer_id == event["customer_id"]
        and live.course.began <= at <= live.course.last + rules.window
    ]
    return max(candidates, key=lambda live: (live.course.began, live.content.id), default=None)


def report(events: list[Event], routes: Routes, now: float) -> LiveReport:
    """What `LiveIndex.report` says, the verdict apart."""
    rows = conversations(events, Rules.of(routes), now)
    own = [r for r in rows if r.live.digest == routes.active.digest and not r.live.handed and r.known]
    canary = routes.canary
    since = canary.since if canary else 0.0
    return LiveReport(
        time=now,
        active=_arm(rows, routes.active.digest, 0.0),
        usable=len(own),
        usable_outcomes=sum(r.outcome for r in own),
        control=_arm(rows, routes.active.digest, since) if canary else None,
        candidate=_arm(rows, canary.route.digest, since) if canary else None,
        personas=tuple(
            PersonaReport(
                name=name,
                known=sum(r.live.persona == name for r in own),
                outcomes=sum(r.live.persona == name and r.outcome for r in own),
            )
            for name in sorted({r.live.persona for r in own} - {""})
        ),
    )


def _arm(rows: list[Row], digest: str, since: float) -> ArmReport:
    mine = [
        r
        for r in rows
        if r.live.digest == digest and not r.live.handed and not r.live.persona and r.live.course.began >= since
    ]
    known = [r for r in mine if r.known]
    seconds = sorted(float(f"{each:.2g}") for r in mine for each in r.live.seconds)
    rank = -(-95 * len(seconds) // 100)
    return ArmReport(
        digest=digest,
        began=len(mine),
        closed=sum(r.over for r in mine),
        known=len(known),
        outcomes=sum(r.outcome for r in known),
        accepted=sum(r.live.accepted for r in known),
        abstained=sum(r.live.abstained for r in known),
        complaints=sum(r.complaint for r in known),
        seconds=seconds[rank - 1] if seconds else None,
    )
