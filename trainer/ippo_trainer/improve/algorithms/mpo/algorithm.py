"""The improvement step by MPO: candidates of logged states, tilted by Q within the KL budget, imitated by the policy.

E-step and M-step of arXiv 1806.06920, once for all states. What the policy imitates is fixed, so there is no critic, no
importance ratio and no sampling between updates. The KL to pi_i of what comes out is measured on held-out states after
every pass over the candidates. Where it exceeds the target, the tilt gets less to spend.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithm import BEST, Guard, Task
from ippo_trainer.improve.algorithms.mpo.candidates import Pool, Source, TargetDistribution, draw, worth_training
from ippo_trainer.improve.algorithms.mpo.settings import MPOSettings
from ippo_trainer.improve.algorithms.mpo.tilt import Tilt, tilt
from ippo_trainer.improve.pieces import deal
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.settings import ADAM_EPSILON
from ippo_trainer.models.packing import Group
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import FINAL_RATE, Schedule


@dataclass
class MPOPosition:
    """Where MPO is. All of it goes into a checkpoint, as JSON."""

    draws: int = 0
    """Steps in which candidates were drawn."""
    epoch: int = 0
    batch: int = 0
    updates: int = 0
    budget: float = 0.0
    """Nats that the tilt may spend."""
    loss: float = 0.0
    """Sum over the updates of this pass."""
    norm: float = 0.0
    """Largest norm of the gradients in this pass."""


class MPO:
    """An `Algorithm`; see `ippo_trainer.improve.algorithm`. Its warm-ups are the draws of candidates."""

    def __init__(self, task: Task) -> None:
        self.task, self.settings = task, MPOSettings.of(task.section)
        self.position = MPOPosition(budget=task.settings.kl_target)
        self.pool = Pool()
        self.own, self.explored = self._sources()
        seed = task.settings.seed
        generator = np.random.Generator(np.random.Philox(derive_seed(seed, "mpo")))
        self._numbers = generator.permutation(len(task.states))[: self.settings.conversations].tolist()
        task.ranks.shard(task.policy)
        self._optimiser = Optimiser(
            task.policy.parameters(),
            self.settings.learning_rate,
            epsilon=ADAM_EPSILON,
            ranks=task.ranks,
        )
        self._schedule = Schedule.of_fit(self.updates, FINAL_RATE)
        self._tilt: Tilt | None = None
        self._targets: list[TargetDistribution] = []

    def _sources(self) -> tuple[Source, Source]:
        """pi_i, and the explorer as it explores in collect. Both without tokens that the explorer never says."""
        task, settings, collect = self.task, self.settings, self.task.collect
        explorer = task.load_explorer()
        if explorer is not task.reference:
            task.ranks.shard(explorer)
        own = replace(task.sampler.sampling, samples=settings.own_candidates, min_p=collect.explorer_min_p)
        flat = replace(own, samples=settings.explored_candidates, temperature=collect.explorer_temperature)
        samplers = [
            Sampler(task.q, sampling, task.settings.seed, task.settings.max_tokens, task.ranks)
            for sampling in (own, flat)
        ]
        return Source(task.reference, samplers[0], "own"), Source(explorer, samplers[1], "explored")

    @property
    def warm_ups(self) -> int:
        return math.ceil(len(self._numbers) / self.settings.proposal_batch)

    @property
    def updates(self) -> int:
        return self.settings.epochs * self._batches

    @property
    def _batches(self) -> int:
        """Of a pass."""
        return math.ceil(len(self._numbers) / self.settings.batch_size)

    def run(self, guard: Guard) -> None:
        position = self.position
        while position.draws < self.warm_ups:
            self._draw()
            guard.after_warm_up()
        while True:
            if position.batch == self._batches:
                self._end_pass(guard)
            if not guard.goes_on():
                break
            loss, norm = self._update()
            if not guard.finite({"loss": loss, "norm": norm}):
                return
            position.loss, position.norm = position.loss + loss, max(position.norm, norm)
            position.batch += 1
            position.updates += 1
            guard.after_update()
        guard.end(f"all {position.epoch} passes over {len(self.pool.states)} states were made", BEST)

    # Steps ----------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        settings, position = self.settings, self.position
        start = position.draws * settings.proposal_batch
        numbers = self._numbers[start : start + settings.proposal_batch]
        states = {number: self.task.states.of(number) for number in numbers}
        self.pool.states += draw(states, self.own, self.explored, settings.explorer_share)
        position.draws += 1
        if position.draws == self.warm_ups and not self.pool.states:
            raise BadDataError(
                "no suggestion that was sampled in the logged states has an end within policy.maxNewTokens",
                "Raise policy.maxNewTokens, or warmStart.epochs.",
            )

    def _update(self) -> tuple[float, float]:
        """One step; its loss in nats per state, and the norm of its gradients."""
        if self._tilt is None:
            self._tilt = self._spend(self.position.budget)
            self._targets = worth_training(self.pool.states, self._tilt, self.settings.least_weight)
        return self._imitate(self._members())

    def _spend(self, budget: float) -> Tilt:
        settings, target = self.settings, self.task.settings.kl_target
        return tilt(self.pool.table(), budget, settings.least_temperature, settings.state_factor * target)

    def _members(self) -> list[int]:
        """Numbers in the pool of the states of this update's conversations."""
        position, size = self.position, self.settings.batch_size
        seed = derive_seed(self.task.settings.seed, "pass", position.epoch)
        order = np.random.Generator(np.random.Philox(seed)).permutation(self._numbers)
        batch = set(order[position.batch * size : (position.batch + 1) * size].tolist())
        return [number for number, each in enumerate(self.pool.states) if each.conversation in batch]

    def _imitate(self, members: Sequence[int]) -> tuple[float, float]:
        """One optimiser step of weighted likelihood; see `_update`."""
        if not members:
            return 0.0, 0.0
        task, ranks = self.task, self.task.ranks
        weights = [self._targets[number].weights for number in members]
        groups = [self._group(number) for number in members]
        device = next(task.policy.parameters()).device
        pieces, order = deal(groups, ranks.size, task.settings.max_tokens, device)
        flat = torch.tensor([share for number in order for share in weights[number]], device=device)
        total = 0.0
        for piece, counts in ranks.share(pieces):
            scores = ranks.call(token_logprobs, task.policy, piece.packed, task.sampler.sampling.temperature)
            loss = -(flat[piece.rows][piece.packed.response_index] * scores.logprobs).sum() * counts / len(groups)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = self._optimiser.step(self._schedule.share(self.position.updates))
        return ranks.sums({"loss": total})["loss"], norm

    def _group(self, number: int) -> Group:
        """A state of the pool with what the policy imitates there."""
        place = self.pool.states[number]
        return Group(self.task.states.of(place.conversation)[place.turn].prompt, self._targets[number].responses)

    def _end_pass(self, guard: Guard) -> None:
        """Looks at held-out states, and lowers a tilt that went too far."""
        position, settings, target = self.position, self.settings, self.task.settings.kl_target
        look = guard.look()
        assert look is not None, "without held-out states nothing bounds the KL"
        spent = self._tilt or self._spend(position.budget)  # None: resumed at the end of a pass
        guard.add_row(
            {
                "kl": look.kl,
                "q_lift": look.lift,
                "policy_loss": position.loss / self._batches,
                "grad_norm": position.norm,
                "learning_rate": settings.learning_rate * self._schedule.share(position.updates - 1),
                "kl_coefficient": spent.eta,
                "tilt_kl": float(spent.kl.mean()),
                "tilt_q_lift": float(spent.gain(self.pool.table()).mean()),
            }
        )
        if look.kl > target:
            position.budget *= target / look.kl
            self._tilt = None
        position.epoch, position.batch, position.loss, position.norm = position.epoch + 1, 0, 0.0, 0.0

    # State ----------------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, StatePart]:
        return {"policy-optimiser": self._optimiser, "pool": self.pool}

    def facts(self) -> dict[str, Any]:
        return asdict(self.position)

    def restore(self, facts: dict[str, Any]) -> None:
        self.position = MPOPosition(**facts)
