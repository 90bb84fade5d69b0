"""What live conversations come to, counted slowly: all events in memory, every question by a loop."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ippo_trainer.contract.live import ArmReport, CanaryRoute, LiveReport, PersonaReport, Routes
from ippo_trainer.live.assignment import in_canary
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
    said = [(each.time, each.at, each.outcome) for each in live.statements]
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
    control, candidate = _sides(rows, routes, canary, now) if canary else (None, None)
    return LiveReport(
        time=now,
        active=_arm(_plain(rows, routes.active.digest), routes.active.digest),
        usable=len(own),
        usable_outcomes=sum(r.outcome for r in own),
        control=control,
        candidate=candidate,
        personas=tuple(
            PersonaReport(
                name=name,
                conversations=sum(r.live.persona == name for r in own),
                outcomes=sum(r.live.persona == name and r.outcome for r in own),
            )
            for name in sorted({r.live.persona for r in own} - {""})
        ),
    )


def _plain(rows: list[Row], digest: str) -> list[Row]:
    return [r for r in rows if r.live.digest == digest and not r.live.handed and not r.live.persona]


def _sides(rows: list[Row], routes: Routes, canary: CanaryRoute, now: float) -> tuple[ArmReport, ArmReport]:
    """As assigned, of those that began before the first one that is not known, if that is not of long ago."""
    test = [r for r in rows if not r.live.persona and r.live.course.began >= canary.since]
    oldest = now - Rules.of(routes).window - 86_400
    ripe = min((r.live.course.began for r in test if not r.known and r.live.course.began > oldest), default=now)
    share, candidate = float(canary.settings.share), canary.route.digest
    arms = []
    for digest, is_candidate in ((routes.active.digest, False), (candidate, True)):
        mine = [r for r in test if in_canary(candidate, r.live.content.id, share) == is_candidate]
        arms.append(_arm(mine, digest, lambda r: r.live.course.began < ripe))
    return arms[0], arms[1]


def _arm(mine: list[Row], digest: str, counts: Callable[[Row], bool] = lambda row: row.known) -> ArmReport:
    known = [r for r in mine if counts(r)]
    seconds = sorted(float(f"{each:.2g}") for r in mine for each in r.live.seconds)
    rank = -(-95 * len(seconds) // 100)
    return ArmReport(
        digest=digest,
        began=len(mine),
        closed=sum(r.over for r in mine),
        conversations=len(known),
        outcomes=sum(r.outcome and r.known for r in known),
        accepted=sum(r.live.accepted for r in known),
        abstained=sum(r.live.abstained for r in known),
        complaints=sum(r.complaint for r in known),
        seconds=seconds[rank - 1] if seconds else None,
    )
