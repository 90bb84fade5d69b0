"""The improvement step: rollouts of the current policy, Q as the reward, KL to pi_i within a budget, and guards.

What turns scored responses into a better policy is the operator's business (`ippo_trainer.ppo.operators`).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.ppo.control import adapt_kl_coefficient, first_kl_coefficient, kl_pressure
from ippo_trainer.ppo.credit import RewardNormaliser, penalise_truncated
from ippo_trainer.ppo.heldout import HeldOut, Measurement
from ippo_trainer.ppo.maths import kl_estimate, masked_mean, response_sums
from ippo_trainer.ppo.operators import Experience, ImprovementOperator
from ippo_trainer.ppo.rollout import BatchStream, LoggedStates, Rollout, Sampler
from ippo_trainer.ppo.settings import Settings
from ippo_trainer.training.checkpoint import Snapshot, StatePart, Weights
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.schedule import Schedule

PROBES = 4
"""Looks at the held-out probe during the updates, for the collapse guard."""
COLLAPSE_ERRORS = 3.0
"""Standard errors by which E[Q] must have fallen below its best to count as a collapse."""
LAST, SAFE, BEST = "last", "safe", "best"


@dataclass
class Best:
    """The policy with the highest E[Q] that the probe has seen."""

    update: int
    lift: float
    q: list[float]
    """Sums of E[Q] by conversation of the probe, to compare with pairwise."""


@dataclass
class Position:
    """Where an improvement is. All of it goes into a checkpoint, as JSON."""

    batches: int = 0
    warmups: int = 0
    warm: bool = False
    updates: int = 0
    kl_coefficient: float | None = None
    """In units of the normalised reward; known from the first batch on."""
    least_kl_coefficient: float = 0.0
    """The spec's, in units of the normalised reward."""
    normaliser: dict[str, float] | None = None
    safe_update: int = 0
    """Updates that the newest policy within the budget has had."""
    best: Best | None = None
    ended: str = ""
    """Why no more updates are made, in words; empty while they go on."""
    kept: str = LAST
    """Which policy is the result: the last, the last one within the budget (safe) or the best on the probe."""
    kept_update: int = 0
    curves: list[dict[str, float]] = field(default_factory=list)
    warmup_curves: list[dict[str, float]] = field(default_factory=list)


class Improvement:
    """One improvement step of a policy, resumable at every update.

    Args:
        policy: trained in place; it starts as pi_i.
        operator: made for the policy.
        sampler: scores by the frozen Q.
        states: those of the training conversations.
        probe: held-out states for the collapse guard; may be empty.
        settings: see there.
        ranks: the processes that work on it together.
        reference: pi_i; by default a copy of the policy, which must not be sharded then.
    """

    def __init__(
        self,
        policy: Any,
        operator: ImprovementOperator,
        sampler: Sampler,
        states: LoggedStates,
        probe: HeldOut,
        settings: Settings,
        ranks: Ranks = ALONE,
        reference: Any = None,
    ) -> None:
        self.policy, self.operator, self.sampler = policy, operator, sampler
        self.states, self.probe, self.settings, self.ranks = states, probe, settings, ranks
        self.reference = frozen_copy(policy) if reference is None else reference
        self.position = Position()
        self._schedule = Schedule(settings.updates, max(1, settings.rate_warmup_updates), settings.final_rate)
        self._stream = BatchStream(len(states), settings.batch_size, settings.seed)
        self._snapshots = {name: Snapshot(policy) for name in (SAFE, BEST)}
        self._probe_base: Measurement | None = None

    @property
    def steps(self) -> int:
        """Warm-ups and updates so far."""
        return self.position.warmups + self.position.updates

    @property
    def total(self) -> int:
        return self.settings.critic_warmup_updates + self.settings.updates

    def figures(self) -> dict[str, float]:
        curves = self.position.curves
        return {name: curves[-1][name] for name in ("kl", "q_mean")} if curves else {}

    def run(self, after_step: Callable[[], None]) -> None:
        """Warms up, updates until the updates or the KL budget are used up or a guard ends it, and keeps one policy.

        Args:
            after_step: called after every warm-up or update, when the state is complete; may save, report or raise.
        """
        while not self.position.ended:
            if not self.position.warm:
                self._warm_up()
            else:
                self._update()
            after_step()
        self._keep()

    # One step of either phase -------------------------------------------------------------------------------------

    def _draw(self) -> Rollout:
        position = self.position
        numbers = self._stream.batch(position.batches)
        rollout = self.sampler.draw(
            self.policy,
            [self.states.of(number) for number in numbers],
            f"batch-{position.batches}",
            self.settings.minibatches,
        )
        position.batches += 1
        if position.normaliser is None:  # the first batch is always one of pi_i
            normaliser = RewardNormaliser.fit(rollout.scores)
            position.normaliser = normaliser.model_dump()
            position.least_kl_coefficient = self.settings.kl_coefficient / normaliser.scale if normaliser.scale else 0.0
            first = self._first_kl_coefficient(self._rewards(rollout), rollout)
            position.kl_coefficient = self.ranks.agreed(first)
        return rollout

    def _rewards(self, rollout: Rollout) -> Tensor:
        assert self.position.normaliser is not None  # set with the first batch
        return penalise_truncated(RewardNormaliser(**self.position.normaliser)(rollout.scores), rollout.ended)

    def _first_kl_coefficient(self, rewards: Tensor, rollout: Rollout) -> float:
        """The weight that fits the budget, and never less than the spec's.

        A target would have the anchor loosened until the budget is spent, also where Q has nothing to offer but its
        errors: late cycles then drift to texts that Q has never seen.
        """
        samples, target = self.settings.samples_per_state, self.settings.kl_target
        # One sample tells nothing of the spread within its state; the spread of all is 1.
        spread = (
            math.sqrt(float(rollout.state_variances(rewards).mean()) * samples / (samples - 1)) if samples > 1 else 1.0
        )
        return max(self.position.least_kl_coefficient, first_kl_coefficient(spread, target))

    def _experience(self, rollout: Rollout, old: Tensor, ref: Tensor, pressure: float = 1.0) -> Experience:
        position = self.position
        assert position.kl_coefficient is not None  # set with the first batch
        return Experience(
            rollout=rollout,
            rewards=self._rewards(rollout),
            old_logprobs=old,
            ref_logprobs=ref,
            kl_coefficient=position.kl_coefficient * pressure,
            rate_share=self._schedule.share(position.updates),
        )

    def _warm_up(self) -> None:
        position, limit = self.position, self.settings.critic_warmup_updates
        if position.warmups < limit:
            rollout = self._draw()
            # The sampler is pi_i, so there is no KL whatever the log-probabilities.
            experience = self._experience(rollout, rollout.sampler_logprobs, rollout.sampler_logprobs)
            figures, ready = self.ranks.agreed(self.operator.warm_up(experience))
            position.warmup_curves.append({"update": position.warmups, **_finite(figures)})
            position.warmups += 1
            position.warm = ready
        position.warm = position.warm or position.warmups >= limit

    def _update(self) -> None:
        position, settings = self.position, self.settings
        if self._collapsed():
            return
        rollout = self._draw()
        own = self.sampler.logprobs(self.policy, rollout)
        ref = own if position.updates == 0 else self.sampler.logprobs(self.reference, rollout)
        kl = self.ranks.agreed(float(response_sums(kl_estimate(own.logprobs, ref.logprobs, "k1"), rollout.mask).mean()))
        if kl > settings.budget_factor * settings.kl_target:
            self._end(SAFE, f"the KL budget was used up after {position.updates} updates")
            return
        self._snapshots[SAFE].take()
        position.safe_update = position.updates
        self._adapt(kl)
        pressure = kl_pressure(kl, settings.kl_target, settings.kl_strength)
        experience = self._experience(rollout, own.logprobs, ref.logprobs, pressure)
        figures = self.ranks.agreed(self.operator.improve(experience))
        if not all(math.isfinite(value) for value in figures.values()):
            self._end(SAFE, f"a loss or gradient was not finite in update {position.updates}")
            return
        figures |= _describe(experience, own.entropy) | {"kl": kl, "kl_coefficient": experience.kl_coefficient}
        position.curves.append({"update": position.updates, **figures})
        position.updates += 1
        if position.updates == settings.updates:
            self._end(LAST, f"all {position.updates} updates were made")

    def _adapt(self, kl: float) -> None:
        """Moves the KL weight towards the target.

        It does not sink while the KL rises to the target for the first time: that the policy has only begun to move is
        no reason to loosen the anchor.
        """
        position, settings = self.position, self.settings
        assert position.kl_coefficient is not None  # set with the first batch
        reached = any(row["kl"] >= settings.kl_target for row in position.curves)
        if kl >= settings.kl_target or reached or 2 * position.updates >= settings.updates:
            adapted = adapt_kl_coefficient(position.kl_coefficient, kl, settings.kl_target, settings.kl_gain)
            position.kl_coefficient = max(position.least_kl_coefficient, adapted)

    # Guards and the choice of the policy --------------------------------------------------------------------------

    def _collapsed(self) -> bool:
        """Looks at the probe now and then; ends the updates if E[Q] has clearly fallen below its best."""
        position, every = self.position, max(1, self.settings.updates // PROBES)
        if position.updates == 0 or position.updates % every or len(self.probe) < 2:
            return False
        measured = self._measure_probe()
        position.curves[-1]["probe_q_lift"] = measured.lift_over(self._base()).estimate
        position.curves[-1]["probe_kl"] = measured.mean_kl().estimate
        if self._worse_than_best(measured):
            self._end(BEST, f"E[Q] on held-out states collapsed after {position.updates} updates")
            return True
        self._note_best(measured)
        return False

    def _note_best(self, measured: Measurement) -> None:
        lift, position = measured.lift_over(self._base()).estimate, self.position
        within = measured.mean_kl().estimate <= self.settings.budget_factor * self.settings.kl_target
        if within and (position.best is None or lift > position.best.lift):
            position.best = Best(position.updates, lift, measured.q.tolist())
            self._snapshots[BEST].take()

    def _worse_than_best(self, measured: Measurement) -> bool:
        """Whether more than half of the best lift is gone, beyond what chance does. Less may be the KL's price."""
        best = self.position.best
        if best is None or measured.lift_over(self._base()).estimate > 0.5 * best.lift:
            return False
        gap = (np.asarray(best.q) - measured.q) / measured.states.sum()
        mean = gap.mean()
        error = math.sqrt(float(np.square(gap - mean).sum()) * len(gap) / (len(gap) - 1))
        return float(gap.sum()) > max(COLLAPSE_ERRORS * error, 1e-6)

    def _measure_probe(self) -> Measurement:
        return self.probe.measure(self.policy, self.reference)

    def _base(self) -> Measurement:
        if self._probe_base is None:
            self._probe_base = self.probe.measure(self.reference, None)
        return self._probe_base

    def _end(self, kept: str, reason: str) -> None:
        self.position.ended, self.position.kept = reason, kept

    def _keep(self) -> None:
        """Puts the kept policy's weights into the policy; the last one only if its KL is within the budget."""
        position, settings = self.position, self.settings
        position.kept_update = position.updates
        if position.kept == LAST and len(self.probe) >= 2:
            measured = self._measure_probe()
            if measured.mean_kl().estimate > settings.budget_factor * settings.kl_target:
                position.kept = SAFE
            elif self._worse_than_best(measured):
                position.kept = BEST
        if position.kept == SAFE:
            position.kept_update = position.safe_update
        if position.kept == BEST and position.best is not None:
            position.kept_update = position.best.update
        if position.kept != LAST:
            self._snapshots[position.kept].put_back()

    # State --------------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, StatePart]:
        return {"policy": Weights(self.policy), **self._snapshots, **self.operator.parts()}

    def facts(self) -> dict[str, Any]:
        return {"position": asdict(self.position), "operator": self.operator.facts()}

    def restore(self, facts: dict[str, Any]) -> None:
        best = facts["position"].pop("best")
        self.position = Position(**facts["position"], best=Best(**best) if best else None)
        self.operator.restore(facts["operator"])


def frozen_copy(policy: Any) -> Any:
    """The policy as it is now, to stay so."""
    return copy.deepcopy(policy).requires_grad_(False)


def _finite(figures: dict[str, float]) -> dict[str, float]:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise BadDataError(f"{name} of the critic's warm-up is {value}", "Lower improve.criticLearningRate.")
    return figures


def _describe(experience: Experience, entropy: Tensor) -> dict[str, float]:
    """What the responses of one batch were like."""
    rollout = experience.rollout
    mismatch = kl_estimate(rollout.sampler_logprobs, experience.old_logprobs, "k3")
    return {
        "reward_mean": float(experience.rewards.mean()),
        "reward_std": float(experience.rewards.std(unbiased=False)),
        "q_mean": float(rollout.scores.mean()),
        "q_lift": float((rollout.scores - rollout.baselines).mean()),
        "entropy": float(masked_mean(entropy, rollout.mask)),
        "response_length": float(rollout.mask.sum(1).float().mean()),
        "truncation_rate": 1.0 - float(rollout.ended.float().mean()),
        "mismatch_kl": float(masked_mean(mismatch, rollout.mask)),
        "constant_reward_share": float((rollout.state_variances(experience.rewards) < 1e-8).float().mean()),
    }
