"""PPO from end to end: warm-up of the critic, batches of the current policy, the scale of rewards, the KL weight."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithm import Guard, Task, collapsed
from ippo_trainer.improve.algorithms.ppo.control import (
    adapt_kl_coefficient,
    first_kl_coefficient,
    has_plateaued,
    kl_pressure,
)
from ippo_trainer.improve.algorithms.ppo.credit import RewardNormaliser, penalise_truncated
from ippo_trainer.improve.algorithms.ppo.learner import Experience, Learner
from ippo_trainer.improve.algorithms.ppo.settings import PPOSettings
from ippo_trainer.improve.maths import kl_k3, log_ratio, masked_mean, response_sums
from ippo_trainer.improve.sampler import ResponseBatch
from ippo_trainer.improve.settings import RISE_UPDATES
from ippo_trainer.improve.states import BatchStream
from ippo_trainer.models.scoring import TokenScores
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.schedule import FINAL_RATE, Schedule

PLATEAU_WINDOW = 3
PLATEAU_TOLERANCE = 0.02


@dataclass
class PPOPosition:
    """Where PPO is. All of it goes into a checkpoint, as JSON."""

    batches: int = 0
    warm_ups: int = 0
    updates: int = 0
    explained_variances: list[float] = field(default_factory=list)
    """By warm-up, each on samples that were not trained on yet."""
    kl_coefficient: float | None = None
    """In units of the normalised reward; known from the first batch on."""
    least_kl_coefficient: float = 0.0
    """The spec's, in units of the normalised reward."""
    normaliser: dict[str, float] | None = None
    target_reached: bool = False
    """Whether the KL was at its target or above it before some update."""


class PPO:
    """An `Algorithm`; see `ippo_trainer.improve.algorithm`. Its critic starts from Q."""

    def __init__(self, task: Task, from_start: bool = True) -> None:
        """See `Algorithm`.

        Args:
            task: what is improved.
            from_start: whether the policy is pi_i before the first update; else another algorithm has moved it.
        """
        self.task, self.settings = task, PPOSettings.of(task.section, task.settings.precision)
        self._from_start = from_start
        self.learner = Learner(task, self.settings)
        self.position = PPOPosition()
        self._schedule = Schedule(self.settings.updates, RISE_UPDATES, FINAL_RATE)
        self._stream = BatchStream(len(task.states), task.settings.batch_size, task.settings.seed)

    @property
    def warm_ups(self) -> int:
        return self.settings.critic_warmup_updates

    @property
    def updates(self) -> int:
        return self.settings.updates

    def run(self, guard: Guard) -> None:
        while self._critic_is_cold():
            guard.after_warm_up(self._warm_up())
        while guard.goes_on() and not collapsed(guard, self.position.updates, self.updates):
            batch = self._draw()
            old = self.task.sampler.logprobs(self.task.policy, batch)
            ref = self._reference_logprobs(batch, old)
            kl = self.task.ranks.agreed(float(response_sums(log_ratio(old.logprobs, ref), batch.mask).mean()))
            if not guard.within_budget(kl):
                return
            figures = self._update(batch, old, ref, kl)
            if not guard.finite(figures):
                return
            guard.add_row(figures)
            guard.after_update()

    def parts(self) -> dict[str, StatePart]:
        return self.learner.parts()

    def facts(self) -> dict[str, Any]:
        return asdict(self.position)

    def restore(self, facts: dict[str, Any]) -> None:
        self.position = PPOPosition(**facts)

    # The two kinds of steps -----------------------------------------------------------------------------------------

    def _critic_is_cold(self) -> bool:
        """Whether the critic needs another warm-up: there are some left, and the last ones were of use."""
        position = self.position
        plateau = has_plateaued(position.explained_variances, PLATEAU_WINDOW, PLATEAU_TOLERANCE)
        return position.updates == 0 and position.warm_ups < self.settings.critic_warmup_updates and not plateau

    def _warm_up(self) -> dict[str, float]:
        """One step of the critic on samples of the policy as it is before its first update."""
        batch = self._draw()
        # Of pi_i there is no KL, whatever the log-probabilities. If the policy was moved before, that is not its price.
        experience = self._experience(batch, batch.sampler_logprobs, batch.sampler_logprobs)
        figures = self.task.ranks.agreed(self.learner.warm_up(experience))
        for name, value in figures.items():
            if not math.isfinite(value):
                raise BadDataError(f"{name} of the critic's warm-up is {value}", "Lower improve.criticLearningRate.")
        self.position.explained_variances.append(figures["explained_variance"])
        self.position.warm_ups += 1
        return figures

    def _update(self, batch: ResponseBatch, old: TokenScores, ref: Tensor, kl: float) -> dict[str, float]:
        """One update of policy and critic; a row of the curves."""
        self._adapt(kl)
        pressure = kl_pressure(kl, self.settings.kl_target, self.settings.kl_strength)
        experience = self._experience(batch, old.logprobs, ref, pressure)
        figures = self.task.ranks.agreed(self.learner.update(experience))
        self.position.updates += 1
        return figures | _describe(experience, old.entropy) | {"kl": kl, "kl_coefficient": experience.kl_coefficient}

    # Rewards and the KL weight --------------------------------------------------------------------------------------

    def _draw(self) -> ResponseBatch:
        position, task = self.position, self.task
        numbers = self._stream.batch(position.batches)
        conversations = [task.states.of(number) for number in numbers]
        batch = task.sampler.draw(task.policy, conversations, f"batch-{position.batches}", self.settings.minibatches)
        position.batches += 1
        if position.normaliser is None:
            normaliser = RewardNormaliser.fit(batch.scores)
            position.normaliser = normaliser.model_dump()
            position.least_kl_coefficient = self.settings.kl_coefficient / normaliser.scale if normaliser.scale else 0.0
            position.kl_coefficient = task.ranks.agreed(self._first_kl_coefficient(batch))
        return batch

    def _reference_logprobs(self, batch: ResponseBatch, old: TokenScores) -> Tensor:
        """(N, T) of pi_i, which the policy may be before the first update."""
        if self._from_start and self.position.updates == 0:
            return old.logprobs
        return self.task.sampler.logprobs(self.task.reference, batch).logprobs

    def _experience(self, batch: ResponseBatch, old: Tensor, ref: Tensor, pressure: float = 1.0) -> Experience:
        position = self.position
        assert position.kl_coefficient is not None  # set with the first batch
        return Experience(
            batch=batch,
            rewards=self._rewards(batch),
            old_logprobs=old,
            ref_logprobs=ref,
            kl_coefficient=position.kl_coefficient * pressure,
            rate_share=self._schedule.share(position.updates),
        )

    def _rewards(self, batch: ResponseBatch) -> Tensor:
        assert self.position.normaliser is not None  # set with the first batch
        return penalise_truncated(RewardNormaliser(**self.position.normaliser)(batch.scores), batch.ended)

    def _first_kl_coefficient(self, batch: ResponseBatch) -> float:
        """The weight that fits the budget, and never less than the spec's.

        A target would have the anchor loosened until the budget is spent, also where Q has nothing to offer but its
        errors: late cycles then drift to texts that Q has never seen.
        """
        samples, target = self.settings.samples_per_state, self.settings.kl_target
        # One sample tells nothing of the spread within its state; the spread of all is 1.
        spread = 1.0
        if samples > 1:
            variance = float(batch.state_variances(self._rewards(batch)).mean())
            spread = math.sqrt(variance * samples / (samples - 1))
        return max(self.position.least_kl_coefficient, first_kl_coefficient(spread, target))

    def _adapt(self, kl: float) -> None:
        """Moves the KL weight towards the target.

        It does not sink while the KL rises to the target for the first time: that the policy has only begun to move is
        no reason to loosen the anchor.
        """
        position, settings = self.position, self.settings
        assert position.kl_coefficient is not None  # set with the first batch
        position.target_reached = position.target_reached or kl >= settings.kl_target
        if position.target_reached or 2 * position.updates >= settings.updates:
            adapted = adapt_kl_coefficient(position.kl_coefficient, kl, settings.kl_target, settings.kl_gain)
            position.kl_coefficient = max(position.least_kl_coefficient, adapted)


def _describe(experience: Experience, entropy: Tensor) -> dict[str, float]:
    """What the responses of one batch were like."""
    batch = experience.batch
    mismatch = kl_k3(batch.sampler_logprobs, experience.old_logprobs)
    return {
        "reward_mean": float(experience.rewards.mean()),
        "reward_std": float(experience.rewards.std(unbiased=False)),
        "q_mean": float(batch.scores.mean()),
        "q_lift": float((batch.scores - batch.baselines).mean()),
        "entropy": float(masked_mean(entropy, batch.mask)),
        "response_length": float(batch.mask.sum(1).float().mean()),
        "truncation_rate": 1.0 - float(batch.ended.float().mean()),
        "mismatch_kl": float(masked_mean(mismatch, batch.mask)),
        "constant_reward_share": float((batch.state_variances(experience.rewards) < 1e-8).float().mean()),
    }
