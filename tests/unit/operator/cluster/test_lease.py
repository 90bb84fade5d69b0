"""The Lease as a fence: one holder, no clock of another machine, nobody writes after it ran out."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.errors import FencedError
from ippo_operator.cluster.lease import Lease, LeaseTimes
from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import FakeApi, answer
from tests.kit.planner_world import START

TIMES = LeaseTimes(duration=15, renew_every=5, margin=3)


class World:
    """Processes with one clock each."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.clocks: dict[str, float] = {}
        self.passed = 0.0

    def process(self, name: str, clock: float = 0.0) -> Lease:
        self.clocks[name] = clock
        client = Client(self.api, retries=RetryPolicy(attempts=1))
        return Lease(client, "ippo", "ippo-operator", name, TIMES, lambda: self.clocks[name], self.wall)

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def pass_time(self, seconds: float) -> None:
        self.passed += seconds
        for name in self.clocks:
            self.clocks[name] += seconds

    @property
    def spec(self) -> Any:
        return self.api.objects["leases", "ippo", "ippo-operator"]["spec"]


def tick(lease: Lease) -> bool:
    return asyncio.run(lease.tick())


def test_the_first_one_acts_and_the_second_one_waits() -> None:
    world = World()
    one, two = world.process("one"), world.process("two", clock=1e6)
    assert tick(one)
    assert not tick(two)
    for _ in range(10):
        world.pass_time(5)
        assert tick(one)
        assert not tick(two)
    one.check()
    with pytest.raises(FencedError):
        two.check()
    assert world.spec["leaseTransitions"] == 0


def test_a_dead_holder_is_replaced_only_after_the_whole_duration() -> None:
    world = World()
    one, two = world.process("one"), world.process("two", clock=-500)
    tick(one)
    tick(two)
    world.pass_time(14.9)
    assert not tick(two)
    world.pass_time(0.2)
    assert tick(two)
    assert world.spec["holderIdentity"] == "two"
    assert world.spec["leaseTransitions"] == 1


def test_a_holder_that_was_paused_does_not_write_when_it_wakes_up() -> None:
    world = World()
    one, two = world.process("one"), world.process("two")
    tick(one)
    tick(two)
    world.pass_time(20)
    assert not one.held
    with pytest.raises(FencedError):
        one.check()
    assert tick(two)
    assert not tick(one)
    assert not one.held


def test_a_holder_stops_before_others_may_begin() -> None:
    world = World()
    one = world.process("one")
    tick(one)
    world.pass_time(TIMES.duration - TIMES.margin - 0.1)
    one.check()
    world.pass_time(0.2)
    with pytest.raises(FencedError):
        one.check()


def test_a_server_that_does_not_answer_ends_the_hold_in_time_and_no_sooner() -> None:
    world = World()
    one = world.process("one")
    tick(one)
    world.api.before = lambda _number, _request: answer(503, "ServiceUnavailable")
    world.pass_time(5)
    assert tick(one)
    world.pass_time(8)
    assert not tick(one)
    world.api.before = lambda _number, _request: None
    assert tick(one)


def test_two_that_take_over_at_once_do_not_both_hold() -> None:
    world = World()
    one, two, three = (world.process(name) for name in ("one", "two", "three"))
    tick(one)
    tick(two)
    tick(three)
    world.pass_time(16)

    def overtaken(_number: int, request: Request, _response: Response) -> None:
        if request.method == "GET":
            world.api.after = lambda _n, _r, _a: None
            assert tick_inside(three)

    def tick_inside(lease: Lease) -> bool:
        import threading

        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(tick(lease)))
        thread.start()
        thread.join()
        return found[0]

    world.api.after = overtaken
    assert not tick(two)
    assert three.held
    assert not two.held


def test_release_lets_another_one_begin_at_once() -> None:
    world = World()
    one, two = world.process("one"), world.process("two")
    tick(one)
    assert not tick(two)
    asyncio.run(one.release())
    assert not one.held
    assert tick(two)


def test_release_takes_nothing_from_another_holder() -> None:
    world = World()
    one, two = world.process("one"), world.process("two")
    tick(one)
    tick(two)
    world.pass_time(16)
    tick(two)
    asyncio.run(one.release())
    assert world.spec["holderIdentity"] == "two"
