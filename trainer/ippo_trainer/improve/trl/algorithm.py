"""An algorithm of `improve` that one of trl's trainers carries out.

The trainer generates, computes advantages and losses, and steps. What is ours comes in where trl asks for it: the
prompts as its tokenizer, Q as its reward function, pi_i as its reference model, optimiser and learning rate, and a
callback after every update. Each update's randomness follows from its number, and a resumed improvement is a new
trainer for the updates that are left: so it ends as if it had never stopped.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.improve.algorithm import Guard, Task, collapsed
from ippo_trainer.improve.algorithms.ppo.control import first_kl_coefficient
from ippo_trainer.improve.maths import log_ratio, response_sums
from ippo_trainer.improve.sampler import ResponseBatch
from ippo_trainer.improve.settings import RISE_UPDATES
from ippo_trainer.improve.states import LoggedState
from ippo_trainer.improve.trl.checks import check_compiler, check_forward, check_room
from ippo_trainer.improve.trl.rollouts import Rollout, StateStream
from ippo_trainer.models.parking import device_of
from ippo_trainer.models.sampling import Sampled
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import FINAL_RATE, Schedule

ADAM_EPSILON = 1e-8
"""trl's: rewards are Q itself, so gradients are small."""
_CURVES = {
    "loss": "policy_loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "reward": "reward_mean",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "constant_reward_share",
    "clip_ratio/low_mean": "clip_fraction_low",
    "clip_ratio/high_mean": "clip_fraction_high",
}
"""What trl logs, and what the report calls it."""


@dataclass
class TRLPosition:
    """Where it is. All of it goes into a checkpoint, as JSON."""

    warm_ups: int = 0
    updates: int = 0
    kl_coefficient: float = 0.0
    """trl's beta, in units of Q per nat."""
    mean: float = 0.0
    """Of Q, over suggestions of pi_i."""
    deviation: float = 0.0
    """Its standard deviation."""


class BudgetUsedError(Exception):
    """The guard ended the updates in the middle of trl's loop."""


class TRLAlgorithm:
    """An `Algorithm`; see `ippo_trainer.improve.algorithm`. Its one warm-up measures Q on suggestions of pi_i.

    A class that derives from it names the trainer.
    """

    name: ClassVar[str]

    def __init__(self, task: Task) -> None:
        section = task.section
        if section.samples_per_state < 2:
            raise BadSpecError(
                f"improve.samplesPerState is {section.samples_per_state}: {self.name} compares the suggestions of a "
                "state with one another",
                "Set 2 or more, or use PPO.",
            )
        self.task, self.section, self.position = task, section, TRLPosition()
        self.stream = StateStream(task.states, task.settings.seed)
        longest = task.states.longest() + task.sampler.sampling.max_new_tokens
        wanted = max(1, round(min(section.batch_size, len(task.states)) * len(self.stream) / len(task.states)))
        most_rows = max(1, task.settings.max_tokens // longest)
        self.rollout = Rollout.of(wanted, section.samples_per_state, section.minibatches, most_rows)
        check_compiler(device_of(task.policy), self.name)
        check_room(task.policy, self.rollout.suggestions, longest, self.name)
        rate = float(section.value("learning_rate"))
        self.optimiser = Optimiser(task.policy.parameters(), rate, epsilon=ADAM_EPSILON)
        steps = section.updates * self.steps
        self.schedule = Schedule(steps, min(steps, RISE_UPDATES * self.steps), FINAL_RATE)

    @classmethod
    @abstractmethod
    def trainer(cls) -> tuple[type[Any], type[Any]]:
        """trl's trainer and its config."""

    @abstractmethod
    def own_arguments(self) -> dict[str, Any]:
        """Of the config, for what not all of trl's trainers have."""

    @property
    def steps(self) -> int:
        """Optimiser steps of an update."""
        return self.section.epochs * self.rollout.minibatches

    @property
    def warm_ups(self) -> int:
        return 1

    @property
    def updates(self) -> int:
        return self.section.updates

    def run(self, guard: Guard) -> None:
        from ippo_trainer.improve.trl.loop import train  # trl takes seconds

        if not self.position.warm_ups:
            row = self._measure()
            self.position.warm_ups += 1
            guard.after_warm_up(row)
        if not guard.goes_on() or collapsed(guard, self.position.updates, self.updates):
            return
        with tempfile.TemporaryDirectory(prefix="ippo-trl-") as folder:
            train(self, guard, folder)

    def parts(self) -> dict[str, StatePart]:
        return {"policy-optimiser": self.optimiser}

    def facts(self) -> dict[str, Any]:
        return asdict(self.position)

    def restore(self, facts: dict[str, Any]) -> None:
        self.position = TRLPosition(**facts)

    # What trl asks for ----------------------------------------------------------------------------------------------

    def scored(self, numbers: Sequence[int], responses: Sequence[Sequence[Sequence[int]]]) -> ResponseBatch:
        """Suggestions to states with their Q, as our own sampler would give them but for its log-probabilities.

        Args:
            numbers: of the states, in the stream.
            responses: by state, token ids with the end.
        """
        stops = self.task.sampler.sampling.stop_ids
        sampled = [[Sampled(list(ids), [0.0] * len(ids), ids[-1] in stops) for ids in group] for group in responses]
        return self.task.sampler.lay_out([[self.stream.of(number)] for number in numbers], sampled, 1)

    def rewards(self, batch: ResponseBatch) -> Tensor:
        """(N,) Q of the suggestions. One without an end gets less than the mean by a standard deviation, at most: as in
        PPO (`credit.penalise_truncated`), but in units of Q."""
        worst = batch.scores.clamp_max(self.position.mean) - self.position.deviation
        return torch.where(batch.ended, batch.scores, worst)

    def divergence(self, batch: ResponseBatch) -> float:
        """KL(policy || pi_i) on suggestions of the policy, nats per suggestion (k1)."""
        if not self.position.updates:
            return 0.0
        own, ref = (
            self.task.sampler.logprobs(model, batch).logprobs for model in (self.task.policy, self.task.reference)
        )
        return float(response_sums(log_ratio(own, ref), batch.mask).mean())

    def seed(self) -> int:
        """Of the randomness of the update that comes."""
        return derive_seed(self.task.settings.seed, self.name, self.position.updates)

    # Q under pi_i ---------------------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        """Fixes the KL weight by the spread of Q within states, and what a suggestion without an end is worth."""
        task, position = self.task, self.position
        states = [self.stream.of(number) for number in self.stream.numbers(0, self.rollout.groups).tolist()]
        prompts = [state.prompt for state in states]
        check_forward(task.policy, prompts, task.sampler.sampling.pad_id, self.name)
        batch = self._draw(states)
        scores = batch.scores.double()
        position.mean, position.deviation = float(scores.mean()), float(scores.std(unbiased=False))
        within = float(batch.state_variances(self.rewards(batch)).mean())
        samples = self.rollout.samples
        spread = (within * samples / (samples - 1)) ** 0.5
        fitting = first_kl_coefficient(spread, task.settings.kl_target)
        position.kl_coefficient = max(float(self.section.kl_coefficient), fitting)
        return {
            "q_mean": position.mean,
            "q_deviation": position.deviation,
            "q_spread_within_states": spread,
            "kl_coefficient": position.kl_coefficient,
        }

    def _draw(self, states: Sequence[LoggedState]) -> ResponseBatch:
        return self.task.sampler.draw(self.task.policy, [[state] for state in states], self.name)


def described(batch: ResponseBatch, kl: float, kl_coefficient: float) -> dict[str, float]:
    """What the curves say of a rollout."""
    return {
        "kl": kl,
        "kl_coefficient": kl_coefficient,
        "q_mean": float(batch.scores.mean()),
        "q_lift": float((batch.scores - batch.baselines).mean()),
        "response_length": float(batch.mask.sum(1).float().mean()),
        "truncation_rate": 1.0 - float(batch.ended.float().mean()),
    }


def from_log(logs: dict[str, Any]) -> dict[str, float]:
    """What trl logged of an update, by the names of the curves."""
    return {ours: float(logs[theirs]) for theirs, ours in _CURVES.items() if logs.get(theirs) is not None}
