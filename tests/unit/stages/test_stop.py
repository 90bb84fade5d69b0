"""A stop is noticed in the middle of a long step, in every stage that computes; what must not be torn is not."""

import itertools
import os
import signal
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import StoppedError
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.stages import stop
from ippo_trainer.stages.stop import Interrupted, StopFlag
from ippo_trainer.training import cadence


def stop_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def spec_of(world: Any, stage: str) -> Any:
    limits = params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256, max_new_tokens=8)
    if stage == "warm-start":
        warm_start = params.WarmStart(demonstrations=16, epochs=1, batch_size=4)
        return world.spec(stage, {}, warm_start=warm_start, policy=limits)
    policy = world.put_policy()
    inputs = {"policy": policy, "data": world.put_data(world.demonstrations(120))}
    if stage == "fit-q":
        return world.spec(stage, inputs, fit_q=params.FitQ(epochs=2, batch_size=8, holdout="0.3"), policy=limits)
    section = params.Improve(
        algorithm="PPO", updates=3, batch_size=4, critic_warmup_updates=1, samples_per_state=2, minibatches=2
    )
    return world.spec(stage, inputs | {"q": world.put_q(policy)}, improve=section, policy=limits)


@pytest.mark.parametrize("stage", ["warm-start", "fit-q", "improve"])
def test_a_long_step_is_interrupted_and_the_stage_resumes_to_the_same_bytes(
    small_world: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    spec: StageSpec = spec_of(small_world, stage)
    forward, forwards = torch.nn.Embedding.forward, itertools.count()

    def run(hang_at: int) -> Any:
        def counted(module: Any, tokens: Any) -> Any:
            if next(forwards) == hang_at:
                stop_me()
                while True:
                    signal.pause()
            return forward(module, tokens)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Embedding, "forward", counted)
            patch.setattr(stop, "PATIENCE_SECONDS", 0.01)
            patch.setattr(cadence, "SAVE_SECONDS", 0.0)
            patch.setattr(cadence, "SAVING_SHARE", float("inf"))
            return small_world.run(spec)

    _, expected = run(-1)
    count = next(forwards)
    for found in list(small_world.store.list("iterations")):
        small_world.store.delete(found.key)
    for share in (0.1, 0.4):
        forwards = itertools.count()
        code, message = run(round(share * count))
        assert code == 143, message
        assert "stopped by SIGTERM in the middle of a step" in message["error"]["message"]
    assert run(-1) == (0, expected)


def test_what_is_deferred_is_not_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "PATIENCE_SECONDS", 0.001)
    monkeypatch.setattr(stop, "_AGAIN_SECONDS", 0.001)
    flag, alarms = StopFlag(), itertools.count()
    interrupt = flag.interrupt

    def counted(*arguments: Any) -> None:
        next(alarms)
        interrupt(*arguments)

    monkeypatch.setattr(flag, "interrupt", counted)
    whole = False

    def work() -> None:
        nonlocal whole
        with flag.interrupting():
            with flag.deferred():
                stop_me()
                while next(alarms) < 6:
                    signal.pause()
                whole = True
            while True:
                signal.pause()

    with flag.listening(), pytest.raises(StoppedError, match="SIGTERM in the middle"):
        work()
    assert whole


def test_an_interruption_is_no_exception_that_retries_catch() -> None:
    assert not issubclass(Interrupted, Exception)


def test_handlers_and_the_callers_timer_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    timer = signal.getitimer(signal.ITIMER_REAL)
    flag = StopFlag()
    with flag.listening():
        stop_me()
        assert flag.signal == "SIGTERM"
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(timer[0], abs=5)
