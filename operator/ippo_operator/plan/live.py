"""Runs that learn from live conversations: how many there have to be, and what the gateway has to know."""

from datetime import datetime

from ippo_trainer.contract.live import LiveReport
from ippo_trainer.contract.stages import COLLECT

from ippo_operator.api.reasons import Reason
from ippo_operator.api.resource import LiveCollect, RunSpec
from ippo_operator.api.status import LiveStatus, RunStatus, Waiting
from ippo_operator.plan import canary
from ippo_operator.plan.essence import essence
from ippo_operator.plan.types import Event, LiveIntent, ObservedLive

POLL = 20.0
"""Seconds between two looks at what a gateway counts, where a run waits for it."""


def waits(spec: RunSpec, status: RunStatus) -> bool:
    """Whether the stage that is due is a collect for which there is not known to be enough yet."""
    if status.stage != COLLECT or status.active is not None or _section(spec, status) is None:
        return False
    return status.live is None or status.live.until is None


def begun(spec: RunSpec, status: RunStatus) -> RunStatus:
    """The status when conversations of the current policy begin to be waited for, where the iteration collects them.

    As many more are wanted as there were when those of this policy were collected before, by this iteration, whose Q
    told nothing, or by the last one, whose candidate was refused: from the same data the same would come.
    """
    section, before = _section(spec, status), status.live
    if status.policy is None or section is None:
        return status
    record = LiveStatus(policy=status.policy.artifact.digest, trouble=before.trouble if before is not None else None)
    if before is not None and before.policy == record.policy and before.until is not None:
        counts = {"conversations": before.conversations, "outcomes": before.outcomes}
        record = record.model_copy(update=counts | {f"earlier_{name}": count for name, count in counts.items()})
    return status.model_copy(update={"live": _wanting(record, section)})


def look_after(spec: RunSpec, status: RunStatus) -> float | None:
    """Seconds until the gateway has to be asked again; None where nothing is waited for."""
    counts = waits(spec, status) and not spec.suspend
    return POLL if counts or canary.under_test(spec, status) is not None else None


def observed(spec: RunSpec, status: RunStatus, world: ObservedLive, now: datetime) -> tuple[RunStatus, list[Event]]:
    """The status with what the gateway says, and what is worth telling of it.

    A run that is suspended takes note of trouble alone.
    """
    if status.policy is None or spec.collect.logged is None:
        return status, []
    due, digest = waits(spec, status), status.policy.artifact.digest
    before = status.live
    if before is None or (due and before.policy != digest):
        before = LiveStatus(policy=digest)
    trouble = _trouble(before.trouble, world.trouble)
    record = before.model_copy(update={"trouble": trouble})
    section = _section(spec, status)
    if due and section is not None and not spec.suspend:
        record = _counted(_wanting(record, section), world.report, now)
    events = []
    if trouble is not None and trouble != before.trouble:
        events.append(Event("Warning", trouble.reason, trouble.message))
    if record.until is not None and before.until is None:
        events.append(Event("Normal", "EnoughConversations", f"iteration {status.iteration}: {_figures(record)}"))
    return status.model_copy(update={"live": record}), events


def _section(spec: RunSpec, status: RunStatus) -> LiveCollect | None:
    """How the iteration that runs collects from the gateway; None where it collects otherwise."""
    return spec.collect.logged if spec.collect.history_of(status.iteration) is None else None


def _trouble(before: Waiting | None, now: Waiting | None) -> Waiting | None:
    """A cause keeps its first words, for each attempt to connect finds new ones; another cause is told."""
    if before is None or now is None or before.reason != now.reason:
        return now
    return before if essence(before.message) == essence(now.message) else now


def _wanting(record: LiveStatus, section: LiveCollect) -> LiveStatus:
    wanted = {
        "wanted_conversations": record.earlier_conversations + section.min_conversations,
        "wanted_outcomes": record.earlier_outcomes + section.min_outcomes,
    }
    return record.model_copy(update=wanted)


def _counted(record: LiveStatus, report: LiveReport | None, now: datetime) -> LiveStatus:
    """What a report says of another policy, of before a promotion, does not count."""
    if report is None or report.active.digest != record.policy:
        return record
    counts = {"conversations": report.usable, "outcomes": report.usable_outcomes}
    if report.usable >= record.wanted_conversations and report.usable_outcomes >= record.wanted_outcomes:
        return record.model_copy(update=counts | {"counted_at": now, "until": int(report.time)})
    news = counts != {"conversations": record.conversations, "outcomes": record.outcomes}
    if not news or not canary.due_again(record.counted_at, now):
        return record
    return record.model_copy(update=counts | {"counted_at": now})


def progress(status: RunStatus) -> tuple[Reason, str]:
    """What a run that waits for conversations says."""
    record, number = status.live, status.policy.iteration if status.policy is not None else 0
    text = f"iteration {status.iteration} waits for live conversations of the policy of iteration {number}"
    if record is None or record.counted_at is None:
        text += "; the gateway has not counted any yet"
    else:
        text += f": {_figures(record)}"
    if record is not None and record.trouble is not None:
        return record.trouble.reason, f"{text}; {record.trouble.message}"
    return Reason.WAITING_FOR_CONVERSATIONS, text


def _figures(record: LiveStatus) -> str:
    return (
        f"{record.conversations} of {record.wanted_conversations} with a known outcome, "
        f"{record.outcomes} of {record.wanted_outcomes} with the outcome"
    )


def intent(spec: RunSpec, status: RunStatus) -> LiveIntent | None:
    """What the gateway has to know. It answers customers whatever the run does, also one that is suspended or over."""
    if spec.collect.logged is None or status.policy is None:
        return None
    return LiveIntent(status.policy, canary.intent(spec, status))
