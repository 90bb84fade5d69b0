"""What holds for every live run: idempotent, crash-safe, one attempt at once, and no candidate promoted unasked."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import RunStatus, Waiting
from ippo_operator.plan.types import JobFailure

from tests.kit.live_world import LiveCluster, make_live_run, well_done
from tests.kit.planner_world import changed, status


def is_idle_on_repetition(world: LiveCluster) -> None:
    """Planning again in an unchanged world brings no new job, no event, and the same status."""
    world.step()
    first = world.step()
    second = world.step()
    assert not second.creates or second.creates == first.creates
    third = world.plan()
    assert (third.creates, third.events) == ((), ())
    assert third.status == world.run.status


def is_sound(world: LiveCluster) -> None:
    """What holds of the status that was written, of the next one, and of what that pass tells the gateway."""
    _is_consistent(status(world))
    done = world.plan()
    _is_consistent(done.status)
    assert (done.live is None) == (done.status.policy is None)
    if done.live is not None:
        assert done.live.active == done.status.policy
        assert (done.live.canary is not None) == _under_test(done.status)


def _is_consistent(now: RunStatus) -> None:
    reconciling = now.condition("Reconciling")
    waits = {Reason.WAITING_FOR_CONVERSATIONS, Reason.CANARY_RUNNING, Reason.GATEWAY_UNREACHABLE}
    assert not (reconciling is not None and reconciling.reason in waits and now.active is not None)
    for row in now.iterations:
        canary = row.canary
        if row.iteration and row.promoted and canary is not None:
            assert canary.outcome == "Promote" or "approve" in canary.reason
        assert canary is None or row.promoted is None or canary.finished_at is not None


def _under_test(now: RunStatus) -> bool:
    last = now.iterations[-1] if now.iterations else None
    return last is not None and last.canary is not None and last.canary.finished_at is None


MOMENTS = [
    *["end"] * 6,
    *["talk"] * 3,
    *["pass"] * 2,
    *["Promote", "Reject", "Inconclusive", "counts"],
    *["fail", "die-before", "die-between", "suspend", "wait", "gateway", "servers", "broken", "approve", "strategy"],
]
OUTCOMES = {"Promote", "Reject", "Inconclusive"}
FAILURES = [JobFailure(75, "not now"), JobFailure(1, "bug"), JobFailure(143, "stopped"), None]


def act(world: LiveCluster, moment: str, number: int) -> None:
    """Something happens to the world."""
    running, spec = world.running(), world.run.spec
    if moment == "end" and running is not None:
        world.end(running, well_done(running.spec))
    elif moment == "fail" and running is not None:
        world.step()
        world.end(running, FAILURES[number % len(FAILURES)])
    elif moment.startswith("die"):
        world.step(die_after=0 if moment == "die-before" else 1)
    elif moment == "talk" and world.told is not None:
        world.talk(20 + number, number // 4)
    elif moment in OUTCOMES:
        world.shop.outcome = moment  # type: ignore[assignment]
    elif moment == "counts":
        world.shop.candidate, world.shop.control = [number, number // 2], [2 * number, number]
    elif moment == "gateway":
        world.answers = not world.answers
        world.trouble = None if world.answers else Waiting(reason=Reason.GATEWAY_UNREACHABLE, message=f"no {number}")
    elif moment == "servers":
        world.ready = not world.ready
    elif moment == "broken":
        world.failed = "" if world.failed else "no image"
    elif moment in {"suspend", "approve", "strategy"}:
        other = "Surge" if spec.serve is not None and spec.serve.strategy == "Canary" else "Canary"
        fields: dict[str, dict[str, Any]] = {
            "suspend": {"suspend": not spec.suspend},
            "approve": {"promotion": {"approve": 1 + number % 2}},
            "strategy": {"serve": {"engine": "Transformers", "strategy": other}},
        }
        world.run = changed(world.run, **fields[moment])
    elif moment == "wait":
        world.now += timedelta(seconds=40 * number)
    elif moment == "pass":
        is_idle_on_repetition(world)
    world.step()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(0, 60)), max_size=80))
def test_whatever_happens_it_is_sound_and_gets_on_once_all_is_well(moments: list[tuple[str, int]]) -> None:
    retries = {"disruptions": 1000, "tryAgain": 100, "crashes": 100}
    world = LiveCluster(make_live_run(iterations={"max": 2}, retries=retries))
    world.step()
    for moment, number in moments:
        act(world, moment, number)
        is_sound(world)
    world.answers, world.ready, world.trouble, world.failed = True, True, None, ""
    world.run = changed(world.run, suspend=False, serve={"engine": "Transformers", "strategy": "Canary"}, promotion={})
    for _ in range(20):
        world.later(minutes=11)
        is_sound(world)
        if world.says("Succeeded")[0] == "True":
            break
        world.talk(1000, 100)
        world.shop.outcome = "Promote"
    assert world.says("Ready")[1] == "Completed"
    assert len(set(world.stages())) == len(world.stages()), "an attempt was made twice"


class Story(LiveCluster):
    """A run of two iterations in which the operator dies once: at that pass, after so many of its writes."""

    def __init__(self, dies_at: int = -1, after: int = 0) -> None:
        super().__init__(make_live_run(iterations={"max": 2}))
        self.passes, self.dies_at, self.after = 0, dies_at, after

    def step(self, die_after: int = 9) -> Any:
        self.passes += 1
        if self.passes == self.dies_at:
            super().step(self.after)
        return super().step(die_after)

    def told_to_the_end(self) -> RunStatus:
        """Everything happens at the same times, whether it dies or not."""
        self.until_candidate()
        self.ready = True
        self.later(seconds=20)
        self.shop.control, self.shop.candidate = [90, 9], [10, 3]
        self.later()
        self.shop.control, self.shop.candidate, self.shop.outcome = [900, 90], [100, 30], "Promote"
        self.later()
        self.talk(50, 3)
        self.later()
        self.talk(50, 3)
        self.later()
        self.shop.outcome = "Reject"
        self.later()
        return status(self)


CALM = Story()
END = CALM.told_to_the_end()


@pytest.mark.parametrize("after", [0, 1])
def test_an_operator_that_dies_at_any_pass_changes_nothing(after: int) -> None:
    assert [row.promoted for row in END.iterations] == [None, True, False]
    for dies_at in range(1, CALM.passes + 1):
        story = Story(dies_at, after)
        assert story.told_to_the_end() == END, dies_at
        assert story.created == CALM.created, dies_at
