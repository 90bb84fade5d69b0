"""How far a run is with its customers: conversations until it collects, and its A/B test."""

from dataclasses import dataclass

from ippo_trainer.contract.live import ArmReport, LiveReport

from ippo_operator.api.status import CanaryStatus, LiveStatus, RunStatus
from ippo_operator.plan.types import ObservedLive


@dataclass(frozen=True)
class LiveProgress:
    """What is waited for, and how far that is."""

    what: str
    count: str
    share: float | None = None
    """From 0 to 1; None where nobody knows when it ends."""


def live_progress(status: RunStatus, live: ObservedLive | None) -> LiveProgress | None:
    """What the run waits for from its customers; None where it does not.

    Args:
        status: of the run; its figures are written once a minute.
        live: what was last seen of the gateway.
    """
    report = live.report if live is not None else None
    trouble = live.trouble.message if live is not None and live.trouble is not None else ""
    rows = [row for row in status.iterations if row.canary is not None]
    canary = rows[-1].canary if rows else None
    if canary is not None and canary.finished_at is None:
        return LiveProgress(f"A/B test of iteration {rows[-1].iteration}", trouble or _test(canary, report))
    record = status.live
    if record is None or record.until is not None or not record.wanted_conversations:
        return None
    what = f"iteration {status.iteration} collects"
    return LiveProgress(what, trouble) if trouble else _conversations(what, record, report)


def _test(canary: CanaryStatus, report: LiveReport | None) -> str:
    if canary.started_at is None:
        return "waits for the candidate's server"
    if report is None or report.verdict is None:
        return "the gateway has not counted yet"
    arms, verdict = (_arm(report.candidate), _arm(report.control)), report.verdict
    return (
        f"candidate {arms[0]}, current {arms[1]}, lift {verdict.lift:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"
    )


def _arm(arm: ArmReport | None) -> str:
    return "0/0" if arm is None else f"{arm.outcomes}/{arm.conversations}"


def _conversations(what: str, record: LiveStatus, report: LiveReport | None) -> LiveProgress:
    counted = report is not None and report.active.digest == record.policy
    usable = (report.usable, report.usable_outcomes) if report is not None and counted else (0, 0)
    earlier = (record.earlier_conversations, record.earlier_outcomes)
    wanted = (record.wanted_conversations, record.wanted_outcomes)
    come, due = ([most - least for most, least in zip(pair, earlier, strict=True)] for pair in (usable, wanted))
    share = min(count / max(1, most) for count, most in zip(come, due, strict=True))
    count = f"{max(0, come[0])}/{due[0]} conversations, {max(0, come[1])}/{due[1]} with the outcome"
    return LiveProgress(what, count, max(0.0, min(1.0, share)))
