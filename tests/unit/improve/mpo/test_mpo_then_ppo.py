"""MPO, then PPO: one budget, one account, and PPO knows that the policy it begins with is not pi_i."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.improve.algorithm import find
from ippo_trainer.improve.heldout import HeldOut
from ippo_trainer.improve.improvement import Improvement
from ippo_trainer.training import checkpoint

from tests.unit.improve.conftest import SECTION, Toy
from tests.unit.improve.mpo.conftest import SETTINGS


def improvement(kl_target: str = "1.0") -> Improvement:
    """Of a new toy."""
    toy = Toy(SECTION.model_copy(update={"mpo": SETTINGS, "kl_target": kl_target}))
    task = toy.task()
    return Improvement(task, find("MPOThenPPO")(task), HeldOut(toy.sampler, toy.states, range(9, 12), 3, "probe"))


def ignore() -> None:
    """After a step."""


def test_it_makes_the_steps_of_both_and_gets_better_within_the_budget() -> None:
    run = improvement("3.0")
    algorithm: Any = run.algorithm
    run.run(ignore)
    mpo, ppo = algorithm.mpo, algorithm.ppo
    assert run.total == mpo.warm_ups + ppo.warm_ups + mpo.updates + ppo.updates
    assert mpo.position.updates == mpo.updates == 12
    assert ppo.position.updates > 0
    updates = [row["update"] for row in run.position.curves]
    assert updates == sorted(updates)
    assert {"tilt_kl"} <= run.position.curves[0].keys()
    assert {"reward_mean"} <= run.position.curves[-1].keys()
    probe = run.probe
    better = probe.measure(run.task.policy, run.task.reference)
    assert better.lift_over(probe.measure(run.task.reference, None)).estimate > 0.01
    assert better.mean_kl().estimate <= 1.5 * 3.0


def test_ppo_counts_the_kl_that_mpo_has_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    run = improvement("3.0")
    algorithm: Any = run.algorithm
    seen: list[float] = []
    monkeypatch.setattr(run, "within_budget", lambda kl: bool(seen.append(kl)))
    run.run(ignore)
    [first] = seen
    far = run.probe.measure(run.task.policy, run.task.reference)
    assert first > 0.1, "PPO takes the policy for pi_i"
    assert algorithm.ppo.position.updates == 0
    assert far.mean_kl().estimate > 0.1


def test_a_figure_that_is_not_finite_ends_both(monkeypatch: pytest.MonkeyPatch) -> None:
    run = improvement()
    algorithm: Any = run.algorithm
    monkeypatch.setattr(type(algorithm.mpo), "_update", lambda _: (float("nan"), 1.0))
    run.run(ignore)
    assert "not finite" in run.position.end
    assert algorithm.ppo.position.warm_ups == 0


def test_stopped_after_any_step_it_ends_as_if_it_had_not(tmp_path: Path) -> None:
    whole = improvement()

    def save() -> None:
        (tmp_path / str(whole.steps)).mkdir()
        checkpoint.save(tmp_path / str(whole.steps), whole)

    whole.run(save)
    algorithm: Any = whole.algorithm
    border = algorithm.mpo.warm_ups + algorithm.mpo.updates
    for steps in (1, border - 1, border, border + 1, border + algorithm.ppo.warm_ups, whole.steps):
        again = improvement()
        assert checkpoint.load(tmp_path / str(steps), again)
        assert again.steps == steps
        again.run(ignore)
        assert again.position == whole.position
        for one, other in zip(again.task.policy.parameters(), whole.task.policy.parameters(), strict=True):
            assert torch.equal(one, other)
