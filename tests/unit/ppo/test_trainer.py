"""The improvement step on a toy: budget, guards, curves, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.ppo import trainer
from ippo_trainer.ppo.heldout import HeldOut
from ippo_trainer.ppo.rollout import LoggedStates
from ippo_trainer.ppo.trainer import Improvement
from ippo_trainer.training import checkpoint
from torch import Tensor

CURVES = {
    *("update", "kl", "approx_kl", "clip_fraction_low", "clip_fraction_high", "dual_clip_fraction", "entropy"),
    *(
        "explained_variance",
        "value_loss",
        "value_error",
        "policy_loss",
        "reward_mean",
        "reward_std",
        "q_mean",
        "q_lift",
    ),
    *("ratio_max", "response_length", "truncation_rate", "kl_coefficient", "learning_rate", "grad_norm"),
    *("critic_grad_norm", "mismatch_kl", "untrusted_share", "constant_reward_share", "policy_steps"),
}

OFTEN = {1, 4, 7, 10, 13}
"""Stop tokens that leave few responses truncated."""


def improvement(toy: Any, probe: range = range(0)) -> Improvement:
    held = HeldOut(toy.sampler, toy.states, probe, 4, "probe")
    return Improvement(toy.policy, toy.operator(), toy.sampler, toy.states, held, toy.settings)


def weights(module: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def never() -> None:
    """After every step: nothing."""


def test_curves_have_everything_that_one_wants_to_see(make_toy: Any) -> None:
    run = improvement(make_toy(kl_target=50.0))
    run.run(never)
    position = run.position
    assert [row["update"] for row in position.curves] == list(range(6))
    for row in position.curves:
        assert set(row) == CURVES
        assert row["entropy"] >= 0.0
        assert all(np.isfinite(value) for value in row.values())
    assert position.curves[0]["kl"] == 0.0
    assert position.curves[-1]["kl"] > 0.0
    assert abs(position.curves[0]["mismatch_kl"]) < 1e-6
    rates = [row["learning_rate"] for row in position.curves]
    assert rates[0] == pytest.approx(0.01 / 3)
    assert rates[-1] < max(rates) <= 0.01
    assert {"update", "explained_variance", "value_loss"} <= set(position.warmup_curves[0])
    assert (position.ended, position.kept, position.kept_update) == ("all 6 updates were made", "last", 6)


def test_the_weight_starts_where_the_budget_fits_and_never_below_the_specs(make_toy: Any) -> None:
    run = improvement(make_toy(kl_coefficient=0.0, critic_warmup_updates=1, kl_target=2.0))
    rollout = run._draw()
    rewards = run._rewards(rollout)
    variances = [float(rewards[rollout.states == state].var()) for state in rollout.states.unique()]
    fitting = (sum(variances) / len(variances) / 4.0) ** 0.5
    assert run.position.kl_coefficient == pytest.approx(fitting, rel=1e-4)
    scale = float(rollout.scores.double().std(unbiased=False))
    floored = improvement(make_toy(kl_coefficient=3.0 * fitting * scale, critic_warmup_updates=1, kl_target=2.0))
    floored._draw()
    assert floored.position.kl_coefficient == pytest.approx(3.0 * fitting, rel=1e-4)


def test_the_weight_does_not_sink_to_spend_a_budget_that_is_not_needed(make_toy: Any) -> None:
    run = improvement(make_toy(kl_target=3.0, learning_rate=0.003, updates=8, kl_coefficient=0.05))
    run.run(never)
    weights_seen = [row["kl_coefficient"] for row in run.position.curves]
    assert max(row["kl"] for row in run.position.curves) < 3.0
    assert min(weights_seen) >= run.position.least_kl_coefficient > 0.0
    loose = improvement(make_toy(kl_target=3.0, learning_rate=0.003, updates=8, kl_coefficient=0.0))
    loose.run(never)
    loose_weights = [row["kl_coefficient"] for row in loose.position.curves]
    assert len(set(loose_weights[:4])) == 1  # not before it has reached the target or half of the updates are done
    assert loose_weights[-1] < loose_weights[0]


def test_the_reference_is_the_start_and_stays(toy: Any) -> None:
    before = weights(toy.policy)
    run = improvement(toy)
    run.run(never)
    assert torch.equal(weights(run.reference), before)
    assert not torch.equal(weights(run.policy), before)


def test_kl_beyond_the_budget_ends_the_updates_and_keeps_the_last_policy_within(make_toy: Any) -> None:
    toy = make_toy(kl_target=0.02, learning_rate=0.03, updates=20)
    run = improvement(toy)
    seen: list[Tensor] = []
    run.run(lambda: seen.append(weights(run.policy).clone()))
    position = run.position
    assert position.ended == f"the KL budget was used up after {position.updates} updates"
    assert position.kept_update == position.updates - 1 < 19
    assert all(row["kl"] <= 0.03 for row in position.curves)
    # After the steps: 2 warm-ups, the updates, and the one that found the budget used up.
    assert torch.equal(weights(run.policy), seen[2 + position.kept_update - 1])


def test_kl_of_the_last_policy_is_checked_on_the_probe(make_toy: Any) -> None:
    toy = make_toy(kl_target=0.02, learning_rate=0.03, updates=1)
    run = improvement(toy, range(12))
    before = weights(run.policy)
    run.run(never)
    assert (run.position.kept, run.position.kept_update) == ("safe", 0)
    assert torch.equal(weights(run.policy), before)


def test_a_collapse_is_noticed_and_undone(make_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that raises Q for a while and then lowers it."""
    toy = make_toy(updates=40, kl_target=50.0, learning_rate=0.02)
    toy.sampler.stop_ids = OFTEN
    run = improvement(toy, range(12))
    good, improve = [], run.operator.improve

    def spoilt(experience: Any) -> dict[str, float]:
        if run.position.updates < 10:
            figures = improve(experience)
            good.append(weights(run.policy).clone())
            return figures
        return improve(replace(experience, rewards=-2.0 * experience.rewards))

    monkeypatch.setattr(run.operator, "improve", spoilt)
    run.run(never)
    assert run.position.ended == "E[Q] on held-out states collapsed after 20 updates"
    assert run.position.best is not None
    assert run.position.kept_update == run.position.best.update == 10
    assert torch.equal(weights(run.policy), good[9])


def test_a_loss_that_is_not_finite_ends_the_updates(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = improvement(toy)
    improve, before = run.operator.improve, []

    def broken(experience: Any) -> dict[str, float]:
        if run.position.updates == 2:
            before.append(weights(run.policy).clone())
            with torch.no_grad():
                next(run.policy.parameters()).fill_(float("nan"))
            return {"policy_loss": float("nan")}
        return improve(experience)

    monkeypatch.setattr(run.operator, "improve", broken)
    run.run(never)
    assert run.position.ended == "a loss or gradient was not finite in update 2"
    assert run.position.kept_update == 2
    assert torch.equal(weights(run.policy), before[0])


def test_a_warm_up_that_is_not_finite_is_an_error(make_toy: Any) -> None:
    run = improvement(make_toy(critic_learning_rate=1e30, critic_warmup_updates=5))
    with pytest.raises(BadDataError, match=r"critic's warm-up is .*improve\.criticLearningRate"):
        run.run(never)


def test_without_warm_up_updates_come_at_once(make_toy: Any) -> None:
    run = improvement(make_toy(critic_warmup_updates=0, updates=1))
    run.run(never)
    assert (run.position.warmups, run.position.updates, run.position.batches) == (0, 1, 1)


def test_held_out_lift_is_paired_and_zero_for_the_same_policy(toy: Any) -> None:
    held = HeldOut(toy.sampler, toy.states, range(12), 5, "held-out")
    base = held.measure(toy.policy, None)
    again = held.measure(toy.policy, toy.policy)
    assert base.states.tolist() == [1 + n % 3 for n in range(12)]
    assert base.responses.tolist() == [4 * count for count in base.states]
    lift = again.lift_over(base)
    assert (lift.estimate, lift.low, lift.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)
    assert again.mean_kl().estimate == 0.0
    rollout = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in range(12)], "held-out")
    means = rollout.state_means(rollout.scores)
    assert base.q.sum() / base.states.sum() == pytest.approx(float(means.mean()), abs=1e-6)


def test_it_raises_q_on_states_that_it_never_trained_on(make_toy: Any) -> None:
    toy = make_toy(updates=20, kl_target=5.0)
    toy.sampler.stop_ids = OFTEN
    toy.states = LoggedStates(toy.conversations(60), toy.states._renderer)
    train = LoggedStates(toy.conversations(30), toy.states._renderer)
    run = Improvement(
        toy.policy, toy.operator(), toy.sampler, train, HeldOut(toy.sampler, train, [], 4, ""), toy.settings
    )
    run.run(never)
    held = HeldOut(toy.sampler, toy.states, range(30, 60), 16, "held-out")
    measured = held.measure(run.policy, run.reference)
    assert measured.lift_over(held.measure(run.reference, None)).low > 0.02
    assert 0.0 < measured.mean_kl().estimate < 7.5


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_saved_and_loaded_anywhere_it_ends_bit_equal(make_toy: Any, tmp_path: Path, at: int) -> None:
    """The whole state: policy, critic, optimisers, controller, curves, snapshots, positions."""
    ends = []
    for cut in (None, at):
        toy = make_toy(kl_target=0.2, learning_rate=0.02)
        run = improvement(toy, range(12))
        steps = 0

        def after(run: Improvement = run, cut: int | None = cut) -> None:
            nonlocal steps
            steps += 1
            if steps == cut:
                checkpoint.save(tmp_path, run)
                raise InterruptedError

        try:
            run.run(after)
        except InterruptedError:
            toy = make_toy(kl_target=0.2, learning_rate=0.02)
            run = improvement(toy, range(12))
            checkpoint.load(tmp_path, run)
            run.run(never)
        ends.append((weights(run.policy), weights(run.operator.critic), run.position))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def test_probes_are_spread_over_the_updates(make_toy: Any) -> None:
    run = improvement(make_toy(updates=16, kl_target=50.0), range(6))
    run.run(never)
    looked = [row["update"] for row in run.position.curves if "probe_q_lift" in row]
    assert looked == [3, 7, 11]
    assert trainer.PROBES == 4
