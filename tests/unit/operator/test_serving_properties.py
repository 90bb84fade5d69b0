"""What holds for every run that serves, whatever becomes of its servers."""

from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.api.status import RunStatus
from ippo_operator.plan.phase import phase
from ippo_operator.plan.serving import all_are_up, one_is_up
from ippo_operator.plan.types import JobFailure, JobIntent, ObservedServing
from ippo_trainer.contract.digests import NO_DIGEST
from ippo_trainer.contract.spec import Decision

from tests.kit.planner_world import Cluster, Outcome, changed, good_result, make_run

MOMENTS = ["end", "end", "end", "reject", "fail", "ready", "ready", "unready", "lose", "wait", "die", "edit", "suspend"]
MOMENTS += ["pass", "no-serve", "serve", "hold"]
SERVE: dict[str, Any] = {"progressDeadlineSeconds": 600}


def act(world: Cluster, moment: str) -> None:
    """Something happens to the world."""
    running = world.running()
    if moment in {"end", "reject"} and running is not None:
        worse = moment == "reject" and running.spec.stage == "evaluate"
        decision = {"decision": Decision(outcome="Reject", reason="worse")} if worse else {}
        world.end(running, good_result(running.spec, **decision))
    elif moment == "fail" and running is not None:
        world.step()
        world.end(running, JobFailure(143, "stopped"))
    elif moment in {"ready", "unready"} and world.servers is not None:
        world.servers.ready = moment == "ready"
    elif moment == "lose":
        world.lose_servers()
    elif moment == "wait":
        world.now += timedelta(seconds=700)
    elif moment == "die":
        world.step(die_after=1)
    elif moment == "edit":
        world.run = changed(world.run, pods={"serve": {"image": f"servers:{world.run.metadata.generation}"}})
    elif moment == "suspend":
        world.run = changed(world.run, suspend=not world.run.spec.suspend)
    elif moment in {"serve", "hold", "no-serve"}:
        serve = {"serve": SERVE, "hold": SERVE | {"onFailure": "Hold"}, "no-serve": None}[moment]
        world.run = changed(world.run, serve=serve)
    world.step()


def policies(status: RunStatus) -> list[str]:
    """The warm start's policy and every promoted one, in order."""
    return [row.policy for row in status.iterations if row.policy is not None and row.promoted is not False]


def holds(world: Cluster) -> None:
    status = world.run.status
    assert status is not None
    current = [status.policy.artifact.digest] if status.policy is not None else []
    assert set(world.served) <= {*policies(status), *current}, "something was served that was never promoted"
    serving = status.serving
    if serving is None or status.policy is None:
        return
    if world.run.spec.serve is None:
        return
    assert serving.target is not None
    latest = serving.target.digest == status.policy.artifact.digest
    failed = serving.failed is not None and serving.failed.digest == status.policy.artifact.digest
    assert latest or failed, "an old policy is served for no reason"
    if status.is_true("Ready"):
        assert latest
        assert world.servers is not None
        assert world.servers.policy == status.policy.artifact.digest


@settings(max_examples=150)
@given(st.integers(1, 3), st.lists(st.sampled_from(MOMENTS), max_size=70))
def test_whatever_happens_the_current_policy_is_served_in_the_end(limit: int, moments: list[str]) -> None:
    world = Cluster(make_run(iterations={"max": limit}, serve=SERVE, retries={"disruptions": 1000}))
    for moment in moments:
        act(world, moment)
        holds(world)
        made, again = world.step(), world.step()
        assert (again.status, again.creates, again.events) == (made.status, made.creates, ())
    world.run = changed(world.run, suspend=False, serve=SERVE, pods={"serve": {"image": "servers:last"}})
    world.drive()
    holds(world)
    assert world.reason("Ready") == world.reason("Succeeded") == "Completed"
    assert len(set(world.stages())) == len(world.stages()), "an attempt was made twice"


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("on_failure", ["Rollback", "Hold"])
@pytest.mark.parametrize("count", range(5))
def test_policies_that_never_get_ready_change_nothing_but_what_is_served(
    count: int, on_failure: str, learns: bool
) -> None:
    """Whichever of the four: so many of them."""
    for broken in combinations(range(4), count):
        never_ready(broken, on_failure, learns)


def never_ready(broken: tuple[int, ...], on_failure: str, learns: bool) -> None:
    plain = Cluster(make_run(iterations={"max": 3}))
    world = Cluster(make_run(iterations={"max": 3}, serve=SERVE | {"onFailure": on_failure}))
    iterations: dict[str, int] = {}

    def outcome(intent: JobIntent) -> Outcome:
        assert world.run.status is not None
        worse = intent.spec.stage == "evaluate" and not learns
        return good_result(intent.spec, **({"decision": Decision(outcome="Reject", reason="worse")} if worse else {}))

    def works(servers: Any) -> bool:
        assert world.run.status is not None
        for row in world.run.status.iterations:
            iterations.setdefault(row.policy or "", row.iteration)
        return iterations.get(servers.policy, 99) not in broken

    world.works = works
    world.drive(outcome)
    plain.drive(outcome if not learns else lambda intent: good_result(intent.spec))
    assert world.run.status is not None
    assert plain.run.status is not None
    assert world.run.status.policy == plain.run.status.policy
    assert world.stages() == plain.stages()
    assert world.run.status.is_true("Succeeded")
    stands = phase(world.run.spec, world.run.status, world.now)
    last = world.run.status.policy.iteration if world.run.status.policy is not None else 0
    assert (stands.name == "NotServed") == (last in broken)
    assert world.run.status.is_true("Stalled") == (last in broken)
    assert world.run.status.is_true("Ready") == (last not in broken)
    assert not world.run.status.is_true("Reconciling")
    before = len(world.served)
    world.now += timedelta(days=9)
    assert world.step().status == world.run.status
    assert len(world.served) == before


@pytest.mark.parametrize(
    ("total", "updated", "available", "one", "whole"),
    [
        (2, 2, 0, False, False),
        (2, 2, 1, True, False),
        (2, 2, 2, True, True),
        (1, 1, 1, True, False),  # the second one is not made yet
        (3, 2, 2, False, False),  # one of before may be among those available
    ],
)
def test_when_servers_are_up(total: int, updated: int, available: int, one: bool, whole: bool) -> None:
    """Of two that are wanted. A test of a candidate begins with one, a roll-out ends with all."""
    seen = ObservedServing(NO_DIGEST, replicas=2, total=total, updated=updated, available=available)
    assert (one_is_up(seen), all_are_up(seen)) == (one, whole)
