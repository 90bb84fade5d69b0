"""The improvement step on a toy: budget, guards, curves, and resuming."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithm import BEST, PROBES, Guard, Task, collapsed
from ippo_trainer.improve.heldout import HeldOut, HeldOutSums
from ippo_trainer.improve.improvement import BestOnProbe, Improvement, frozen_copy
from ippo_trainer.improve.sampler import ResponseBatch
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.training import checkpoint
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.optimiser import Optimiser
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


def weights(module: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def never() -> None:
    """After every step: nothing."""


def test_curves_have_everything_that_one_wants_to_see(make_toy: Any) -> None:
    run = make_toy(kl_target=50.0).improvement()
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
    assert {"update", "explained_variance", "value_loss"} <= set(position.warm_up_curves[0])
    assert (position.end, position.result, position.result_update) == ("all 6 updates were made", "last", 6)


def test_the_weight_starts_where_the_budget_fits_and_never_below_the_specs(make_toy: Any) -> None:
    run = make_toy(kl_coefficient=0.0, critic_warmup_updates=1, kl_target=2.0).improvement()
    batch = run.algorithm._draw()
    rewards = run.algorithm._rewards(batch)
    variances = [float(rewards[batch.states == state].var()) for state in batch.states.unique()]
    fitting = (sum(variances) / len(variances) / 4.0) ** 0.5
    assert run.algorithm.position.kl_coefficient == pytest.approx(fitting, rel=1e-4)
    scale = float(batch.scores.double().std(unbiased=False))
    floored = make_toy(kl_coefficient=3.0 * fitting * scale, critic_warmup_updates=1, kl_target=2.0).improvement()
    floored.algorithm._draw()
    assert floored.algorithm.position.kl_coefficient == pytest.approx(3.0 * fitting, rel=1e-4)


def test_the_weight_does_not_sink_to_spend_a_budget_that_is_not_needed(make_toy: Any) -> None:
    run = make_toy(kl_target=3.0, learning_rate=0.003, updates=8, kl_coefficient=0.05).improvement()
    run.run(never)
    weights_seen = [row["kl_coefficient"] for row in run.position.curves]
    assert max(row["kl"] for row in run.position.curves) < 3.0
    assert min(weights_seen) >= run.algorithm.position.least_kl_coefficient > 0.0
    loose = make_toy(kl_target=3.0, learning_rate=0.003, updates=8, kl_coefficient=0.0).improvement()
    loose.run(never)
    loose_weights = [row["kl_coefficient"] for row in loose.position.curves]
    assert len(set(loose_weights[:4])) == 1  # not before it has reached the target or half of the updates are done
    assert loose_weights[-1] < loose_weights[0]


def test_the_reference_is_the_start_and_stays(toy: Any) -> None:
    before = weights(toy.policy)
    run = toy.improvement()
    run.run(never)
    assert torch.equal(weights(run.task.reference), before)
    assert not torch.equal(weights(run.task.policy), before)


def test_kl_beyond_the_budget_ends_the_updates_and_keeps_the_last_policy_within(make_toy: Any) -> None:
    toy = make_toy(kl_target=0.02, learning_rate=0.03, updates=20)
    run = toy.improvement()
    seen: list[Tensor] = []
    run.run(lambda: seen.append(weights(run.task.policy).clone()))
    position = run.position
    assert position.end == f"the KL budget was used up after {position.updates} updates"
    assert position.result_update == position.updates - 1 < 19
    assert all(row["kl"] <= 0.03 for row in position.curves)
    # After the steps: 2 warm-ups, the updates, and the one that found the budget used up.
    assert torch.equal(weights(run.task.policy), seen[2 + position.result_update - 1])


def test_kl_of_the_last_policy_is_checked_on_the_probe(make_toy: Any) -> None:
    toy = make_toy(kl_target=0.02, learning_rate=0.03, updates=1)
    run = toy.improvement(range(12))
    before = weights(run.task.policy)
    run.run(never)
    assert (run.position.result, run.position.result_update) == ("safe", 0)
    assert torch.equal(weights(run.task.policy), before)


def test_a_collapse_is_noticed_and_undone(make_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm that raises Q for a while and then lowers it."""
    toy = make_toy(updates=40, kl_target=50.0, learning_rate=0.02)
    toy.sampler.sampling = replace(toy.sampler.sampling, stop_ids=OFTEN)
    run = toy.improvement(range(12))
    good, update = [], run.algorithm.learner.update

    def spoilt(experience: Any) -> dict[str, float]:
        if run.position.updates < 10:
            figures = update(experience)
            good.append(weights(run.task.policy).clone())
            return figures
        return update(replace(experience, rewards=-2.0 * experience.rewards))

    monkeypatch.setattr(run.algorithm.learner, "update", spoilt)
    run.run(never)
    assert run.position.end == "E[Q] on held-out states collapsed after 20 updates"
    assert run.position.best is not None
    assert run.position.result_update == run.position.best.update == 10
    assert torch.equal(weights(run.task.policy), good[9])


def test_a_loss_that_is_not_finite_ends_the_updates(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy.improvement()
    update, before = run.algorithm.learner.update, []

    def broken(experience: Any) -> dict[str, float]:
        if run.position.updates == 2:
            before.append(weights(run.task.policy).clone())
            with torch.no_grad():
                next(run.task.policy.parameters()).fill_(float("nan"))
            return {"policy_loss": float("nan")}
        return update(experience)

    monkeypatch.setattr(run.algorithm.learner, "update", broken)
    run.run(never)
    assert run.position.end == "a loss or gradient was not finite in update 2"
    assert run.position.result_update == 2
    assert torch.equal(weights(run.task.policy), before[0])


def test_a_warm_up_that_is_not_finite_is_an_error(make_toy: Any) -> None:
    run = make_toy(critic_learning_rate=1e30, critic_warmup_updates=5).improvement()
    with pytest.raises(BadDataError, match=r"critic's warm-up is .*improve\.criticLearningRate"):
        run.run(never)


def test_without_warm_up_updates_come_at_once(make_toy: Any) -> None:
    run = make_toy(critic_warmup_updates=0, updates=1).improvement()
    run.run(never)
    assert (len(run.position.warm_up_curves), run.position.updates, run.algorithm.position.batches) == (0, 1, 1)


def test_held_out_lift_is_paired_and_zero_for_the_same_policy(toy: Any) -> None:
    held = HeldOut(toy.sampler, toy.states, range(12), 5, "held-out")
    base = held.measure(toy.policy, None)
    again = held.measure(toy.policy, toy.policy)
    assert base.states.tolist() == [1 + n % 3 for n in range(12)]
    assert base.responses.tolist() == [4 * count for count in base.states]
    lift = again.lift_over(base)
    assert (lift.estimate, lift.low, lift.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)
    assert again.mean_kl().estimate == 0.0
    batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in range(12)], "held-out")
    means = batch.state_means(batch.scores)
    assert base.q.sum() / base.states.sum() == pytest.approx(float(means.mean()), abs=1e-6)


def test_it_raises_q_on_states_that_it_never_trained_on(make_toy: Any) -> None:
    toy = make_toy(updates=20, kl_target=5.0)
    toy.sampler.sampling = replace(toy.sampler.sampling, stop_ids=OFTEN)
    toy.states = LoggedStates(toy.conversations(30), toy.states._renderer)
    run = toy.improvement()
    run.run(never)
    unseen = LoggedStates(toy.conversations(60), toy.states._renderer)
    held = HeldOut(toy.sampler, unseen, range(30, 60), 16, "held-out")
    measured = held.measure(run.task.policy, run.task.reference)
    assert measured.lift_over(held.measure(run.task.reference, None)).low > 0.02
    assert 0.0 < measured.mean_kl().estimate < 7.5


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_saved_and_loaded_anywhere_it_ends_bit_equal(make_toy: Any, tmp_path: Path, at: int) -> None:
    """The whole state: policy, critic, optimisers, controller, curves, snapshots, positions."""
    ends = []
    for cut in (None, at):
        toy = make_toy(kl_target=0.2, learning_rate=0.02)
        run = toy.improvement(range(12))
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
            run = toy.improvement(range(12))
            checkpoint.load(tmp_path, run)
            run.run(never)
        ends.append((weights(run.task.policy), weights(run.algorithm.learner.critic), run.position))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


@pytest.mark.parametrize("fall", [0.02, -0.02])
def test_states_that_fall_alike_are_a_collapse_however_long_their_conversations(toy: Any, fall: float) -> None:
    """E[Q] per state fell by the same in each conversation, so chance has no part in it."""
    run, states = toy.improvement(range(6)), np.array([1.0, 2, 3, 1, 9, 2])
    q = 0.5 * states
    parts = (states, np.zeros(6), states, states, np.zeros(6))
    run._probe_base = HeldOutSums(q, *parts)
    run.position.best = BestOnProbe(1, 0.01, list(q + 0.01 * states))
    assert run._worse_than_best(HeldOutSums(q + (0.01 - fall) * states, *parts)) == (fall > 0)


def test_a_fall_that_a_few_conversations_make_is_none(toy: Any) -> None:
    run, states = toy.improvement(range(6)), np.ones(6)
    parts = (states, np.zeros(6), states, states, np.zeros(6))
    run._probe_base = HeldOutSums(0.5 * states, *parts)
    run.position.best = BestOnProbe(1, 0.01, [0.51] * 6)
    fallen = np.array([0.51, 0.52, 0.5, 0.3, 0.54, 0.5])
    assert not run._worse_than_best(HeldOutSums(fallen, *parts))


@pytest.mark.parametrize("most", [1, 3, 7, 11, 16, 40])
def test_there_are_at_most_four_looks(most: int) -> None:
    guard = Mock(look=Mock(return_value=None))
    for updates in range(most + 1):
        collapsed(guard, updates, most)
    assert 1 <= guard.look.call_count <= PROBES


def test_probes_are_spread_over_the_updates(make_toy: Any) -> None:
    run = make_toy(updates=16, kl_target=50.0).improvement(range(6))
    run.run(never)
    looked = [row["update"] for row in run.position.curves if "probe_q_lift" in row]
    assert looked == [3, 7, 11]
    assert PROBES == 4


class Likelihood:
    """An algorithm that is no PPO: it draws once from pi_i and the explorer, and imitates what Q likes."""

    warm_ups, updates = 1, 6

    def __init__(self, task: Task) -> None:
        self.task, self.explorer, self.drawn, self.done = task, task.load_explorer(), False, 0
        task.ranks.shard(task.policy)
        self.optimiser = Optimiser(task.policy.parameters(), 0.003)

    def batch(self, number: int) -> ResponseBatch:
        """Candidates of pi_i and of the explorer."""
        task, conversations = self.task, [self.task.states.of(number)]
        own, explored = (
            task.sampler.sample(model, conversations, f"candidates-{number}")
            for model in (task.reference, self.explorer)
        )
        responses = [first + second for first, second in zip(own, explored, strict=True)]
        return task.sampler.lay_out(conversations, responses, 1)

    def run(self, guard: Guard) -> None:
        if not self.drawn:
            self.drawn = True
            guard.after_warm_up({"candidates": float(len(self.batch(0).scores))})
        while guard.goes_on() and guard.within_budget(0.1 * self.done):
            batch = self.batch(self.done)
            logprobs = token_logprobs(self.task.policy, batch.pieces[0].packed).logprobs
            weights = (20.0 * batch.scores).softmax(0)[batch.pieces[0].packed.response_index]
            (-(weights * logprobs).sum()).backward()
            self.done += 1
            guard.add_row({"norm": self.optimiser.step(), "kl": 0.1 * self.done})
            guard.after_update()

    def parts(self) -> dict[str, StatePart]:
        return {"likelihood": self.optimiser}

    def facts(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "done": self.done}

    def restore(self, facts: dict[str, Any]) -> None:
        self.drawn, self.done = facts["drawn"], facts["done"]


def shaken(policy: Any) -> Any:
    """Another policy."""
    other = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.mul_(0.5)
    return other


def likelihood(make_toy: Any, target: float) -> Improvement:
    toy = make_toy(kl_target=target)
    task = replace(toy.task(), load_explorer=lambda: shaken(toy.policy))
    return Improvement(task, Likelihood(task), HeldOut(toy.sampler, toy.states, range(6), 4, "probe"))


@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_an_algorithm_of_another_kind_is_guarded_saved_and_resumed_alike(
    make_toy: Any, tmp_path: Path, at: int
) -> None:
    whole = likelihood(make_toy, 9.0)
    whole.run(never)
    assert (whole.total, whole.steps, whole.position.end) == (7, 7, "all 6 updates were made")
    assert whole.position.warm_up_curves == [{"update": 0, "candidates": 8.0}]
    cut = likelihood(make_toy, 9.0)

    def stop() -> None:
        if cut.steps == at:
            checkpoint.save(tmp_path, cut)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        cut.run(stop)
    resumed = likelihood(make_toy, 9.0)
    checkpoint.load(tmp_path, resumed)
    assert resumed.steps == at
    resumed.run(never)
    assert torch.equal(weights(resumed.task.policy), weights(whole.task.policy))
    assert resumed.position == whole.position


def test_the_budget_holds_for_an_algorithm_of_another_kind(make_toy: Any) -> None:
    run = likelihood(make_toy, 0.2)
    run.run(never)
    assert run.position.end == "the KL budget was used up after 4 updates"
    assert (run.position.result, run.position.result_update) == ("safe", 3)


class Drift:
    """An algorithm that moves the policy, and looks at what that did."""

    warm_ups, updates = 0, 3

    def __init__(self, task: Task) -> None:
        self.task = task

    def run(self, guard: Guard) -> None:
        while guard.goes_on():
            with torch.no_grad():
                next(self.task.policy.parameters()).add_(1.0)
            guard.after_update()
            guard.look()
        guard.end("all was tried", BEST)

    def parts(self) -> dict[str, StatePart]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {}

    def restore(self, facts: dict[str, Any]) -> None:
        """There is nothing."""


class Diverging(Drift):
    """Its first update leaves no number in the policy."""

    def run(self, guard: Guard) -> None:
        with torch.no_grad():
            next(self.task.policy.parameters()).fill_(math.nan)
        assert not guard.finite({"loss": 0.1, "norm": math.nan})


@pytest.mark.parametrize("probes", [0, 4])
def test_a_policy_that_is_lost_is_never_the_result(toy: Any, probes: int) -> None:
    task = toy.task()
    start = weights(task.policy).clone()
    run = Improvement(task, Diverging(task), HeldOut(toy.sampler, toy.states, range(probes), 4, "probe"))
    run.run(never)
    assert (run.position.result, run.position.result_update) == ("start", 0)
    assert torch.equal(weights(task.policy), start)


@pytest.mark.parametrize(("lifts", "kept"), [([-0.1, -0.2, -0.3], 0), ([0.1, 0.3, 0.2], 2), ([0.1, 0.0, 0.4], 3)])
def test_the_best_look_is_kept_and_pi_i_where_none_is_better(
    toy: Any, monkeypatch: pytest.MonkeyPatch, lifts: list[float], kept: int
) -> None:
    task = toy.task()
    run = Improvement(task, Drift(task), HeldOut(toy.sampler, toy.states, range(4), 4, "probe"))
    base, seen = run.probe.measure(task.reference, None), [weights(task.policy).clone()]

    def measured(_: Any, policy: Any, reference: Any) -> Any:
        if reference is None:
            return base
        seen.append(weights(policy).clone())
        return replace(base, q=base.q + lifts[len(seen) - 2] * base.states)

    monkeypatch.setattr(HeldOut, "measure", measured)
    run.run(never)
    assert (run.position.result, run.position.result_update, run.position.end) == ("best", kept, "all was tried")
    assert torch.equal(weights(task.policy), seen[kept])
