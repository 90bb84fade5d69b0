"""Stage `collect` where gateways logged what the policy said: its conversations, as turns with outcomes.

All segments are read, since a conversation's events may be in any of them, into a table on the disk. What an attempt
reads is chosen once: one that goes on reads the same segments, though more may have come.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import LIVE
from ippo_trainer.contract.params import Logged
from ippo_trainer.contract.spec import StageResult
from ippo_trainer.data.counts import count_personas, shares
from ippo_trainer.data.schema import Conversation
from ippo_trainer.live.conversations import ASTRAY, LATE, SILENT, SKEWED, UNASKED, UNNAMED
from ippo_trainer.live.events import Event
from ippo_trainer.live.reading import began_at, events, segments
from ippo_trainer.live.standing import Rules
from ippo_trainer.live.table import TWICE, UNREADABLE, EventTable
from ippo_trainer.stages.keeping import Keeper
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.tally import Import, pieces
from ippo_trainer.store import open_store
from ippo_trainer.store.base import ObjectNotFoundError, Store

KIND = "data"
SEGMENTS = "segments.json"
"""In the artifact: the keys of the segments that were read, below the run's folder of live logs."""
_STATE = "live.json"
_DELAY = 300.0
"""Seconds that an event may have waited before its segment began, or by which clocks of gateways differ."""
_OPEN = "conversations that were still open, or could still have the outcome: they are censored"
_HANDED = "conversations that changed hands: they are censored there"
_FIGURES = {
    TWICE: "duplicates",
    LATE: "lateReactions",
    ASTRAY: "strayReactions",
    _HANDED: "changedHands",
    SILENT: "withoutReaction",
    SKEWED: "clockSkew",
    UNASKED: "unasked",
    UNNAMED: "unnamed",
}
"""What a report of the data counts, and how the stage's figures call it."""
_MINE = "FROM conversations WHERE digest = :digest"
_KNOWN = f"{_MINE} AND NOT handed AND known_at <= :until"


@dataclass
class _Progress(Import):
    """Of a live log."""

    segments: list[str] = field(default_factory=list)
    conversations: int = 0
    """Of the table, in its order, that are done."""
    report: Counter[str] = field(default_factory=Counter)


def run(ctx: StageContext, section: Logged) -> StageResult:
    """Publishes the conversations that the current policy began, as the data of the iteration.

    Raises:
        BadSpecError: the spec does not say until when, or of which policy.
        BadDataError: a segment that cannot be read, or too few conversations whose outcome is known.
        StoppedError: told to stop; the next attempt goes on where this one was.
    """
    if ctx.spec.until is None or "policy" not in ctx.spec.inputs:
        raise BadSpecError("stage spec: until or inputs.policy is missing, collect needs both", "Add them.")
    store = open_store(ctx.spec.store.below(LIVE))
    state = _resume(ctx, store)
    table = EventTable(ctx.work / "events.sqlite", Rules.of(section))
    try:
        noted = _read(ctx, store, state, table)
        _check(ctx, table)
        _import(ctx, state, table, _first(ctx, section, table))
    finally:
        table.close()
    state.report.update(noted)
    return _published(ctx, state)


def _read(ctx: StageContext, store: Store, state: _Progress, table: EventTable) -> Counter[str]:
    """Reads the segments into the table; counts what is told of events."""
    noted: Counter[str] = Counter()
    lost = set()
    with ctx.progress(len(state.segments), "reading the live log", "segments") as shown:
        for key in state.segments:
            if not _add(ctx, store, table, key, noted):
                lost.add(began_at(key))
            shown.update(1)
            ctx.check_stop()
    if lost:  # by retention, or an erasure, which puts the rest into another segment of the same time
        for key in sorted(segments(store)):
            if began_at(key) in lost and not table.holds(key) and _add(ctx, store, table, key, noted):
                state.segments.append(key)
    settled: Counter[str] = Counter()
    table.settle(settled)
    return Counter({TWICE: noted[TWICE], UNREADABLE: settled[UNREADABLE], UNASKED: settled[UNASKED]})


def _add(ctx: StageContext, store: Store, table: EventTable, key: str, noted: Counter[str]) -> bool:
    """Whether the segment is there still."""
    try:
        table.add(key, _until(events(store, key), ctx.spec.until or 0), noted)
    except ObjectNotFoundError:
        return False
    return True


def _until(logged: Iterator[Event], until: int) -> Iterator[Event]:
    """What happened later is not there yet."""
    return (event for event in logged if event["time"] <= until)


def _check(ctx: StageContext, table: EventTable) -> None:
    """Raises BadDataError if too few conversations of the policy have a known outcome."""
    [(finished,)] = table.query(f"SELECT count(*) {_KNOWN}", **_names(ctx))
    if finished < 2:
        [(mine,)] = table.query(f"SELECT count(*) {_MINE}", digest=ctx.spec.inputs["policy"].digest)
        [(everything,)] = table.query("SELECT count(*) FROM conversations")
        raise BadDataError(
            f"{finished} conversations of the policy have a known outcome; it began {mine} of {everything} in "
            f"{ctx.store.describe(LIVE)}",
            "Report outcomes to the gateway, or lower collect.logged.outcomeWindow; then ask for another attempt.",
        )


def _names(ctx: StageContext) -> dict[str, Any]:
    return {"digest": ctx.spec.inputs["policy"].digest, "until": ctx.spec.until}


def _first(ctx: StageContext, section: Logged, table: EventTable) -> tuple[float, str]:
    """The oldest conversation that is taken: when it began, and its name."""
    if section.max_conversations is None:
        return -math.inf, ""
    rows = table.query(
        f"SELECT began, name {_KNOWN} ORDER BY began DESC, name DESC LIMIT 1 OFFSET :rest",
        rest=section.max_conversations - 1,
        **_names(ctx),
    )
    return next(rows, (-math.inf, ""))


def _import(ctx: StageContext, state: _Progress, table: EventTable, first: tuple[float, str]) -> None:
    """Writes the conversations from the first one on, by when they began."""
    [(total,)] = table.query(f"SELECT count(*) {_MINE} AND (began, name) >= (:began, :name)", **_range(ctx, first))
    report = Counter(state.report)
    keeper = Keeper(ctx, lambda _: _save(ctx, state))
    conversations = _conversations(ctx, state, table, first, report)
    with ctx.progress(total, "writing turns", "conversations", initial=state.conversations) as shown, keeper.holding():
        for piece in pieces(conversations):
            with ctx.stop.deferred():
                state.write(piece)
                state.tally.counts.update(count_personas(piece))
                state.conversations += len(piece)
                state.report = Counter(report)
            shown.update(len(piece), outcomes=state.tally.counts["outcomes"])
            keeper.note(None)


def _range(ctx: StageContext, first: tuple[float, str]) -> dict[str, Any]:
    return {"digest": ctx.spec.inputs["policy"].digest, "began": first[0], "name": first[1]}


def _conversations(
    ctx: StageContext, state: _Progress, table: EventTable, first: tuple[float, str], report: Counter[str]
) -> Iterator[Conversation]:
    rows = table.query(
        f"SELECT name, known_at, outcome, outcome_at, handed {_MINE} AND (began, name) >= (:began, :name) "
        "ORDER BY began, name LIMIT -1 OFFSET :done",
        done=state.conversations,
        **_range(ctx, first),
    )
    for name, known_at, outcome, outcome_at, handed in rows:
        live = table.conversation(name, report)
        assert live is not None  # or it would have no row
        ended = known_at <= (ctx.spec.until or 0)
        report[_OPEN] += not ended
        report[_HANDED] += handed
        for turn in live.content.turns[1:]:
            turn.outcome = turn.started_at > outcome_at
        yield replace(live.content, outcome=bool(ended and outcome), censored=not ended)


def _published(ctx: StageContext, state: _Progress) -> StageResult:
    counts, report = state.tally.counts, +state.report
    finished = counts["conversations"] - counts["censored"]
    if counts["outcomes"] in {0, finished}:
        ctx.warn(
            f"{'every' if counts['outcomes'] else 'no'} conversation with a known outcome has it. There is nothing to "
            "learn from one class: check what the application reports"
        )
    if report:
        said = "; ".join(f"{count} {what}" for what, count in sorted(report.items()))
        ctx.warn(f"the live log has {said}")
    (state.directory / SEGMENTS).write_bytes(canonical_json(state.segments))
    published = ctx.publish(ctx.folder, state.directory, KIND, {**state.tally.metadata(), "report": dict(report)})
    figures = {name: float(report[what]) for what, name in _FIGURES.items()}
    message = (
        f"{counts['conversations']} conversations of {len(state.segments)} segments, {counts['outcomes']} of "
        f"{finished} with the outcome."
    )
    return ctx.result(artifacts={KIND: published}, metrics=shares(counts) | figures, message=message)


def _resume(ctx: StageContext, store: Store) -> _Progress:
    state = _Progress(ctx.work / "turns", _STATE)
    content = state.resume(ctx)
    if content is None:
        until = ctx.spec.until or 0
        state.segments = sorted(key for key in segments(store) if began_at(key) <= until + _DELAY)
        _save(ctx, state)
        return state
    state.segments, state.conversations = content["segments"], content["conversations"]
    state.report = Counter(content["report"])
    ctx.log.info("resumed after %d conversations", state.conversations)
    return state


def _save(ctx: StageContext, state: _Progress) -> None:
    content = {"segments": state.segments, "conversations": state.conversations, "report": dict(state.report)}
    state.save(ctx, content)
