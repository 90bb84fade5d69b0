"""What a gateway is told: which policies answer, where, and when a conversation counts as over."""

from dataclasses import dataclass

from ippo_trainer.contract.live import CanaryRoute, Route, Routes

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.plan.types import LiveIntent


@dataclass(frozen=True)
class Addresses:
    """URLs of policy servers, without a path.

    Args:
        active: of the current policy's.
        candidate: of those of a candidate under test.
    """

    active: str
    candidate: str


def routes(run: IterativePPORun, live: LiveIntent, addresses: Addresses) -> Routes:
    """What the gateway's file says.

    Args:
        run: with collect.logged.
        live: what the planner wants.
        addresses: where whoever carries that out has the servers.

    Raises:
        ValueError: the run has no collect.logged, so it has no gateway.
    """
    logged, canary = run.spec.collect.logged, live.canary
    if logged is None:
        raise ValueError(f"run {run.metadata.name} has no spec.collect.logged, so it has no gateway")
    candidate: CanaryRoute | None = None
    if canary is not None and canary.since is not None:
        candidate = CanaryRoute(
            route=Route(digest=canary.policy.artifact.digest, url=addresses.candidate),
            iteration=canary.policy.iteration,
            since=canary.since.timestamp(),
            settings=canary.settings,
        )
    return Routes(
        run=run.metadata.name,
        active=Route(digest=live.active.artifact.digest, url=addresses.active),
        canary=candidate,
        personas=logged.on,
        idle=logged.idle,
        outcome_window=logged.outcome_window,
    )


def routes_text(said: Routes) -> str:
    """The file; equal routes give equal bytes."""
    return said.model_dump_json(by_alias=True, exclude_none=True)
