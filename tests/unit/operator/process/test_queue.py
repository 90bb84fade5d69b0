"""The keyed queue, on a clock that a test moves."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_operator.process.queue import Backoff, KeyedQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 10))


async def nothing_is_due(queue: KeyedQueue[str]) -> bool:
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    idle = not taking.done()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    return idle


def test_a_key_that_is_added_often_is_taken_once() -> None:
    async def scene() -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock=Clock())
        for _ in range(10):
            queue.add("a")
        assert queue.depth == 1
        assert await queue.take() == "a"
        queue.done("a")
        assert await nothing_is_due(queue)

    run(scene())


def test_a_key_that_is_worked_on_waits_and_others_do_not() -> None:
    async def scene() -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock=Clock())
        queue.add("a")
        assert await queue.take() == "a"
        queue.add("a")
        queue.add("a")
        queue.add("b")
        assert await queue.take() == "b"
        assert await nothing_is_due(queue)
        queue.done("a")
        assert await queue.take() == "a"
        assert queue.working == 2

    run(scene())


def test_the_earlier_time_wins() -> None:
    async def scene() -> None:
        clock = Clock()
        queue: KeyedQueue[str] = KeyedQueue(clock=clock)
        queue.add("a", 60)
        queue.add("a", 5)
        queue.add("a", 30)
        assert await nothing_is_due(queue)
        clock.now = 5
        assert await queue.take() == "a"
        queue.done("a")
        clock.now = 100
        assert await nothing_is_due(queue)

    run(scene())


def test_what_is_urgent_is_ahead_of_what_became_due_recently_and_starves_nothing() -> None:
    async def scene() -> None:
        clock = Clock()
        queue: KeyedQueue[str] = KeyedQueue(clock=clock)
        queue.add("old")
        clock.now = 31
        queue.add("recent")
        queue.add("urgent", -30)
        assert [await queue.take() for _ in range(3)] == ["old", "urgent", "recent"]

    run(scene())


def test_a_waiting_taker_hears_of_a_new_key() -> None:
    async def scene() -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock=Clock())
        queue.add("later", 100)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add("now")
        assert await taking == "now"

    run(scene())


def test_repetitions_back_off_with_jitter_up_to_a_bound_and_success_forgets_them() -> None:
    queue: KeyedQueue[str] = KeyedQueue(Backoff(first=1, longest=20), clock=Clock())
    waits = [queue.retry("a") for _ in range(10)]
    for number, wait in enumerate(waits):
        full = min(20, 2**number)
        assert full / 2 <= wait <= full
    queue.succeeded("a")
    assert queue.retry("a") <= 1
    queue.drop("a")
    assert queue.depth == 0


@pytest.mark.parametrize("workers", [1, 3])
@settings(max_examples=30)
@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_every_key_is_worked_on_after_it_was_last_added_and_never_twice_at_once(workers: int, keys: list[str]) -> None:
    async def scene() -> None:
        queue: KeyedQueue[str] = KeyedQueue()
        busy: set[str] = set()
        seen: dict[str, int] = {}
        added = 0

        async def work() -> None:
            while True:
                key = await queue.take()
                assert key not in busy
                busy.add(key)
                seen[key] = added
                await asyncio.sleep(0)
                busy.discard(key)
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        last: dict[str, int] = {}
        for number, key in enumerate(keys):
            added = number
            last[key] = number
            queue.add(key)
            if number % 3 == 0:
                await asyncio.sleep(0)
        while queue.depth or queue.working:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(seen[key] >= number for key, number in last.items())

    run(scene())


def test_a_taker_that_is_cancelled_ends_also_if_a_key_comes_at_that_moment() -> None:
    async def scene() -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock=Clock())
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add("later", 100)
        taking.cancel()
        await asyncio.wait([taking], timeout=5)
        assert taking.cancelled()

    run(scene())


def test_keys_that_are_due_in_a_week_again_and_again_take_no_more_room() -> None:
    async def scene() -> None:
        clock = Clock()
        queue: KeyedQueue[str] = KeyedQueue(clock=clock)
        for _ in range(2000):  # a resync, and a Job that is kept for a week
            clock.now += 300
            for key in ("a", "b"):
                queue.add(key)
                assert await queue.take() == key
                queue.add(key, 604_800)
                queue.done(key)
        assert len(queue._heap) < 100
        clock.now += 604_800
        assert {await queue.take(), await queue.take()} == {"a", "b"}
        assert await nothing_is_due(queue)

    run(scene())


def test_a_server_that_asks_for_a_rest_gets_it() -> None:
    queue: KeyedQueue[str] = KeyedQueue(backoff=Backoff(first=0.2, longest=60.0), clock=Clock())
    assert queue.retry("a", 30.0) == 30.0
    assert queue.retry("b") <= 0.2
