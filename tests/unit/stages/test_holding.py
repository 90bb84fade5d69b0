"""Conversations of collect and evaluate survive a kill, a stop and a simulator that is not ready, at any moment."""

import itertools
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.environments.checked import CheckedEnvironment
from ippo_trainer.environments.rollout import PolicyAgent
from ippo_trainer.stages import stop
from ippo_trainer.stages.runtime import run_stage
from ippo_trainer.store.local import LocalStore
from ippo_trainer.training import cadence

BATCH, CONVERSATIONS, TURNS = 8, 20, 6

SHOP = '''
import random

class Customer:
    """Talks for two to six turns and buys if he heard an even number of words; all of it follows from the seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.last = self.random.randint(2, 6)
        self.turn = self.words = 0

    def hear(self, text):
        self.turn += 1
        self.words += len((text or "").split())
        over = self.turn == self.last
        words = " ".join(self.random.choices("a cake please how much is the tea".split(), k=3))
        return {"reaction": "accepted" if text else "rejected", "sent_message": text or "yes",
                "customer_message": None if over else words, "outcome": over and self.words % 2 == 0,
                "tool_messages": [{"stock": self.turn}] if self.turn % 2 else []}


class Shop:
    max_turns = 6

    def reset(self, seeds):
        self.open = [Customer(seed) for seed in seeds]
        return [{"customer_message": "hello", "context": {"name": f"customer {seed % 7}"}} for seed in seeds]

    def step(self, suggestions):
        steps = [customer.hear(text) for customer, text in zip(self.open, suggestions, strict=True)]
        self.open = [c for c, step in zip(self.open, steps, strict=True) if step["customer_message"]]
        return steps


class Lasting(Shop):
    def resume(self, seeds, conversations, messages):
        self.open = [Customer(seed) for seed in seeds]
        for seed, customer, conversation, message in zip(seeds, self.open, conversations, messages, strict=True):
            assert conversation.context == f"name: customer {seed % 7}"
            for turn in conversation.turns:
                assert customer.hear(turn.suggestion)["sent_message"] == turn.sent_message
            assert message
'''


class Moments:
    """Calls `act` at the event of a number: before and after a turn of the simulator, at a put, at a suggestion."""

    def __init__(self, act: Callable[[], None], moment: int, log: Path) -> None:
        self._act, self._moment, self._log = act, moment, log
        self._events = itertools.count()

    def __call__(self) -> None:
        if next(self._events) == self._moment:
            self._act()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        step, put, suggest = CheckedEnvironment.step, LocalStore.put, PolicyAgent.__call__

        def logged_step(environment: Any, suggestions: Any) -> Any:
            with self._log.open("a") as file:
                file.write(f"{len(suggestions)}\n")
            self()
            steps = step(environment, suggestions)
            self()
            return steps

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                self()
                return function(*arguments, **options)

            return call

        patch.setattr(CheckedEnvironment, "step", logged_step)
        patch.setattr(LocalStore, "put", counted(put))
        patch.setattr(PolicyAgent, "__call__", counted(suggest))
        patch.setattr(cadence, "SAVE_SECONDS", 0.0)
        patch.setattr(cadence, "SAVING_SHARE", float("inf"))


def spec_of(world: Any, stage: str, kind: str) -> Any:
    file = world.folder / "shop.py"
    file.write_text(SHOP)
    policy = world.put_policy(1)
    sections: dict[str, Any] = {
        "environment": params.EnvironmentSpec(name=f"{file}:{kind}"),
        "collect": params.Collect(conversations=CONVERSATIONS, parallelism=1, batch_size=BATCH),
    }
    if stage == "collect":
        return world.spec("collect", {"policy": policy}, **sections)
    inputs = {
        "policy": policy,
        "candidate": world.put_policy(2, "candidate"),
        "q": world.put_q(policy),
        "data": world.put_data(world.demonstrations(20)),
    }
    evaluate = params.Evaluate(conversations=CONVERSATIONS)
    return world.spec("evaluate", inputs, evaluate=evaluate, **sections)


def work(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def attempt(world: Any, spec: StageSpec, log: Path, moment: int) -> int:
    """Runs the stage in a process that is killed at a moment; its wait status."""
    path = world.folder / "spec.json"
    path.write_text(spec.model_dump_json(by_alias=True))
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 70
    try:
        Moments(lambda: os.kill(os.getpid(), signal.SIGKILL), moment, log).install(pytest.MonkeyPatch())
        code = run_stage(path, None, None, world.folder)
    finally:
        os._exit(code)


@pytest.fixture
def whole(small_world: Any, tmp_path: Path) -> Callable[[StageSpec], tuple[Any, int]]:
    """The result of a stage that nobody disturbed, and how many turns the simulator held for it."""

    def run(spec: StageSpec) -> tuple[Any, int]:
        with pytest.MonkeyPatch.context() as patch:
            Moments(lambda: None, 0, tmp_path / "whole.log").install(patch)
            result = small_world.result(spec)
        small_world.forget()
        return result, work(tmp_path / "whole.log")

    return run


@pytest.mark.parametrize("kind", ["Shop", "Lasting"])
@pytest.mark.parametrize("stage", ["collect", "evaluate"])
def test_killed_at_random_moments_it_ends_equal_with_little_work_twice(
    small_world: Any, whole: Any, tmp_path: Path, stage: str, kind: str
) -> None:
    spec = spec_of(small_world, stage, kind)
    expected, turns = whole(spec)
    log, moments = tmp_path / "killed.log", random.Random(f"{stage}{kind}")
    kills = 0
    for _ in range(8):
        status = attempt(small_world, spec, log, moments.randint(3, 24))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    with pytest.MonkeyPatch.context() as patch:
        Moments(lambda: None, 0, log).install(patch)
        assert small_world.result(spec) == expected
    assert kills > 2
    # A simulator that can resume repeats the turn that was cut off; another one the open conversations of its batch.
    assert work(log) <= turns + kills * BATCH * (1 if kind == "Lasting" else TURNS)


@pytest.mark.parametrize("kind", ["Shop", "Lasting"])
def test_told_to_stop_it_ends_after_the_turn_and_keeps_it(
    small_world: Any, whole: Any, tmp_path: Path, kind: str
) -> None:
    spec = spec_of(small_world, "collect", kind)
    expected, turns = whole(spec)
    log = tmp_path / "stopped.log"
    for moment in (4, 16, 27):
        with pytest.MonkeyPatch.context() as patch:
            Moments(lambda: os.kill(os.getpid(), signal.SIGTERM), moment, log).install(patch)
            patch.setattr(cadence, "SAVE_SECONDS", 1e9)  # only the stop saves
            code, message = small_world.run(spec)
        assert code == 143, message
    with pytest.MonkeyPatch.context() as patch:
        Moments(lambda: None, 0, log).install(patch)
        assert small_world.result(spec) == expected
    assert work(log) <= turns + (0 if kind == "Lasting" else 3 * BATCH * TURNS)
    if kind == "Lasting":
        assert work(log) == turns


@pytest.mark.parametrize("stage", ["collect", "evaluate"])
def test_a_turn_that_does_not_end_is_interrupted_and_the_turns_before_are_kept(
    small_world: Any, whole: Any, tmp_path: Path, stage: str
) -> None:
    spec = spec_of(small_world, stage, "Lasting")
    expected, turns = whole(spec)
    log = tmp_path / "stuck.log"

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            try:
                signal.pause()
            except Exception:  # as a simulator that tries again whatever happens
                continue

    with pytest.MonkeyPatch.context() as patch:
        Moments(hang, 12, log).install(patch)
        patch.setattr(cadence, "SAVE_SECONDS", 1e9)
        patch.setattr(stop, "PATIENCE_SECONDS", 0.01)
        code, message = small_world.run(spec)
    assert code == 143, message
    assert "stopped by SIGTERM" in message["error"]["message"]
    with pytest.MonkeyPatch.context() as patch:
        Moments(lambda: None, 0, log).install(patch)
        assert small_world.result(spec) == expected
    assert work(log) <= turns + BATCH


@pytest.mark.parametrize("error", [TimeoutError("no answer"), ConnectionResetError("gone")])
@pytest.mark.parametrize("stage", ["collect", "evaluate"])
def test_a_simulator_that_is_not_ready_is_tried_again_with_what_it_held(
    small_world: Any, whole: Any, tmp_path: Path, stage: str, error: Exception
) -> None:
    spec = spec_of(small_world, stage, "Lasting")
    expected, turns = whole(spec)
    log = tmp_path / "busy.log"

    def fail(_: Any, suggestions: Any) -> Any:
        raise error

    calls = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        Moments(lambda: None, 0, log).install(patch)
        patch.setattr(cadence, "SAVE_SECONDS", 1e9)
        call = CheckedEnvironment._call

        def sometimes(environment: Any, method: str, *arguments: Any) -> Any:
            if method == "step" and next(calls) == 3:
                patch.setattr(type(environment._inner), "step", fail)
            return call(environment, method, *arguments)

        patch.setattr(CheckedEnvironment, "_call", sometimes)
        code, message = small_world.run(spec)
    assert code == 75, message
    assert f"Lasting.step raised {type(error).__name__}" in message["error"]["message"]
    assert json.dumps(message).isprintable()
    with pytest.MonkeyPatch.context() as patch:
        Moments(lambda: None, 0, log).install(patch)
        assert small_world.result(spec) == expected
    assert work(log) <= turns + BATCH
