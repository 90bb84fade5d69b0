"""The A/B test of a candidate: a verdict from the counts of both sides, valid however often it is asked for.

What is compared are outcomes per conversation, by `stats.sequential`. Guard-rails are tested in the same way, each at
the same level. The latency is no test: it compares two percentiles, once there are conversations enough. A test whose
sides are not as large as chance would have them ends without an answer.
"""

import math
from dataclasses import dataclass

from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.contract.live import ArmReport, CanaryRoute, CanaryVerdict, GuardRails
from ippo_trainer.contract.spec import Outcome
from ippo_trainer.stats.sequential import Experiment, Trials, lift_bounds, log_evidence, log_evidence_of_another_share

_MISMATCH = 0.001
"""Probability, over all looks, of ending a test for an assignment that is as it should be."""


def verdict(canary: CanaryRoute, control: ArmReport, candidate: ArmReport, now: float) -> CanaryVerdict:
    """Whether the candidate is promoted, rejected, or goes on being tested; Inconclusive keeps the active policy.

    Args:
        canary: the test, with a share above 0 and below 1.
        control, candidate: both sides, of the conversations that `ArmReport` says count.
        now: seconds since 1970 UTC.
    """
    sides = _Sides(control, candidate, float(canary.settings.share))
    level = float(canary.settings.level)
    low, high = lift_bounds(sides.experiment("outcomes"), level)
    lift = sides.experiment("outcomes").lift()
    bounds = f"{lift:+.4f} ({low:+.4f} to {high:+.4f} at level {canary.settings.level}, at every look)"
    figures = f"{_rate(candidate)} of the candidate, {_rate(control)} of the policy before it: {bounds}"
    outcome, why = _decided(canary, sides, (low, high), now)
    return CanaryVerdict(
        digest=canary.route.digest,
        since=canary.since,
        outcome=outcome,
        reason=f"{figures}; {why}.",
        lift=lift,
        low=low,
        high=high,
    )


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides of the test."""

    control: ArmReport
    candidate: ArmReport
    share: float

    def experiment(self, count: str) -> Experiment:
        """Conversations with something, by the name of its count in an `ArmReport`."""
        candidate, control = (Trials(arm.conversations, getattr(arm, count)) for arm in (self.candidate, self.control))
        return Experiment(candidate, control, self.share)


@dataclass(frozen=True, slots=True)
class _GuardRail:
    """Conversations that must not become more, or fewer, beyond a margin."""

    field: str
    """Of `GuardRails`."""
    count: str
    """Of `ArmReport`."""
    words: str
    sign: int
    """1: more are worse; -1: fewer are."""

    def broken(self, sides: _Sides, margin: float, level: float) -> bool:
        """Whether the candidate is worse by more than the margin, beyond chance."""
        experiment = sides.experiment(self.count)
        if self.sign < 0:
            experiment = experiment.mirrored()
        return bool(log_evidence(experiment, margin) >= -math.log(level))


_GUARD_RAILS = (
    _GuardRail("complaints", "complaints", "with a complaint", 1),
    _GuardRail("abstention", "abstained", "with an abstention", 1),
    _GuardRail("acceptance", "accepted", "in which all suggestions were sent as they were", -1),
)


def _decided(canary: CanaryRoute, sides: _Sides, bounds: tuple[float, float], now: float) -> tuple[Outcome | None, str]:
    """The outcome and why, in words."""
    settings, candidate = canary.settings, sides.candidate
    counted = candidate.conversations + sides.control.conversations
    if log_evidence_of_another_share(sides.experiment("outcomes")) >= -math.log(_MISMATCH):
        share = (
            f"{candidate.conversations / counted:.2%} of the conversations that count, its share is {settings.share}"
        )
        return "Inconclusive", f"the candidate has {share}, so they were not assigned by chance alone"
    broken = _broken(settings.guard_rails, sides, float(settings.level))
    if broken is not None:
        return "Reject", broken
    if candidate.conversations >= settings.min_conversations:
        slow = _slow(settings.guard_rails, sides)
        if slow is not None:
            return "Reject", slow
        if bounds[0] > 0:
            return "Promote", "the lower bound is above 0"
        if bounds[1] < 0:
            return "Reject", "the upper bound is below 0"
    if candidate.conversations >= settings.max_conversations:
        return "Inconclusive", f"maxConversations {settings.max_conversations} of the candidate are known"
    if now - canary.since > window_seconds(settings.max_duration):
        return "Inconclusive", f"maxDuration {settings.max_duration} is over"
    if candidate.conversations < settings.min_conversations:
        return (
            None,
            f"{candidate.conversations} of minConversations {settings.min_conversations} of the candidate are known",
        )
    return None, "nothing is decided yet"


def _broken(rails: GuardRails, sides: _Sides, level: float) -> str | None:
    """The first guard-rail that does not hold."""
    for rail in _GUARD_RAILS:
        margin = getattr(rails, rail.field)
        if rail.broken(sides, float(margin), level):
            change = sides.experiment(rail.count).lift()
            words = f"{change:+.2%} of conversations {rail.words}, beyond {margin} and beyond chance"
            return f"guard-rail {rail.field}: {words}"
    return None


def _slow(rails: GuardRails, sides: _Sides) -> str | None:
    seconds, usual = sides.candidate.seconds, sides.control.seconds
    if seconds is None or usual is None or seconds <= float(rails.latency) * usual:
        return None
    return f"guard-rail latency: 95% of its answers take {seconds:.3g} s, more than {rails.latency} times {usual:.3g} s"


def _rate(arm: ArmReport) -> str:
    rate = f" ({arm.outcomes / arm.conversations:.1%})" if arm.conversations else ""
    return f"{arm.outcomes} outcomes of {arm.conversations} conversations{rate}"
