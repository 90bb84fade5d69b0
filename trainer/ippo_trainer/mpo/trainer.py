"""The improvement step by MPO: candidates of logged states, tilted by Q within the KL budget, imitated by the policy.

E-step and M-step of arXiv 1806.06920, once for all states. What the policy imitates is fixed, so there is no critic, no
importance ratio and no sampling between updates. The KL to pi_i of what comes out is measured on held-out states after
every pass over the candidates. Where it exceeds the target, the tilt gets less to spend.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.packing import Group
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.mpo.candidates import Pool, Source, Target, deal, draw, worth_training
from ippo_trainer.mpo.settings import Settings
from ippo_trainer.mpo.tilt import Tilt, tilt
from ippo_trainer.ppo.heldout import HeldOut, Measurement
from ippo_trainer.ppo.rollout import LoggedStates
from ippo_trainer.training.checkpoint import Snapshot, StatePart, Weights
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import Schedule


@dataclass
class Position:
    """Where an improvement is. All of it goes into a checkpoint, as JSON."""

    drawn: int = 0
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
    best_lift: float = 0.0
    """Of the kept policy, on the probe; pi_i's own is 0."""
    kept_update: int = 0
    ended: str = ""
    kept: str = "last"
    curves: list[dict[str, float]] = field(default_factory=list)
    warmup_curves: list[dict[str, float]] = field(default_factory=list)

    @property
    def warmups(self) -> int:
        """There is no critic to warm up."""
        return 0


class WeightedLikelihood:
    """One improvement step of a policy; a `Loop`.

    Args:
        policy: trained in place; it starts as pi_i.
        sources: pi_i, frozen, and the explorer.
        q: the Q model, frozen.
        states: those of the training conversations.
        probe: held-out states for the guards; may be empty.
        settings: see there.
        ranks: the processes that work on it together.
    """

    def __init__(
        self,
        policy: Any,
        sources: tuple[Source, Source],
        q: Any,
        states: LoggedStates,
        probe: HeldOut,
        settings: Settings,
        ranks: Ranks = ALONE,
    ) -> None:
        self.policy, self.sources, self.q = policy, sources, q
        self.states, self.probe, self.settings, self.ranks = states, probe, settings, ranks
        self.reference = sources[0].model
        self.position = Position(budget=settings.kl_target)
        self.pool = Pool()
        generator = np.random.Generator(np.random.Philox(derive_seed(settings.seed, "mpo")))
        self._numbers = generator.permutation(len(states))[: settings.conversations].tolist()
        self._optimiser = Optimiser(policy.parameters(), settings.learning_rate, epsilon=settings.adam_epsilon)
        self._schedule = Schedule.of_fit(settings.epochs * self._batches, settings.final_rate)
        self._best = Snapshot(policy)
        self._best.take()  # where no pass is better and within the budget, the policy stays what it is
        self._base: Measurement | None = None
        self._tilt: Tilt | None = None
        self._targets: list[Target] = []

    @property
    def _batches(self) -> int:
        return math.ceil(len(self._numbers) / self.settings.batch_size)

    @property
    def _draws(self) -> int:
        return math.ceil(len(self._numbers) / self.settings.proposal_batch)

    @property
    def steps(self) -> int:
        """Draws and updates so far."""
        return self.position.drawn + self.position.updates

    @property
    def total(self) -> int:
        return self._draws + self.settings.epochs * self._batches

    def figures(self) -> dict[str, float]:
        curves = self.position.curves
        return {name: curves[-1][name] for name in ("kl", "policy_loss")} if curves else {}

    def run(self, after_step: Callable[[], None]) -> None:
        """Draws all candidates, imitates the tilted ones, and keeps the policy of the best pass within the budget.

        Args:
            after_step: called after every draw or update, when the state is complete; may save, report or raise.
        """
        while not self.position.ended:
            if self.position.drawn < self._draws:
                self._draw()
            else:
                self._update()
            after_step()
        self._best.put_back()

    # Steps --------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        settings, position = self.settings, self.position
        start = position.drawn * settings.proposal_batch
        numbers = self._numbers[start : start + settings.proposal_batch]
        self.pool.states += draw(
            {number: self.states.of(number) for number in numbers},
            self.sources,
            settings.explorer_share,
            self.q,
            self.ranks,
            settings.seed,
            settings.max_tokens,
        )
        position.drawn += 1
        if position.drawn == self._draws and not self.pool.states:
            raise BadDataError(
                "no suggestion that was sampled in the logged states has an end within policy.maxNewTokens",
                "Raise policy.maxNewTokens, or warmStart.epochs.",
            )

    def _update(self) -> None:
        position, settings = self.position, self.settings
        if self._tilt is None:
            self._tilt = self._spend(position.budget)
            self._targets = worth_training(self.pool.states, self._tilt, settings.least_weight)
        loss, norm = self._imitate(self._members())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._end(f"a loss or gradient was not finite in update {position.updates}")
            return
        position.loss, position.norm = position.loss + loss, max(position.norm, norm)
        position.batch += 1
        position.updates += 1
        if position.batch == self._batches:
            self._end_pass()

    def _spend(self, budget: float) -> Tilt:
        settings = self.settings
        return tilt(self.pool.table(), budget, settings.least_temperature, settings.state_factor * settings.kl_target)

    def _members(self) -> list[int]:
        """Numbers in the pool of the states of this update's conversations."""
        position, size = self.position, self.settings.batch_size
        generator = np.random.Generator(np.random.Philox(derive_seed(self.settings.seed, "pass", position.epoch)))
        order = generator.permutation(self._numbers)
        chosen = set(order[position.batch * size : (position.batch + 1) * size].tolist())
        return [number for number, each in enumerate(self.pool.states) if each.conversation in chosen]

    def _imitate(self, members: Sequence[int]) -> tuple[float, float]:
        """One optimiser step of weighted likelihood; its loss in nats per state, and the norm of its gradients."""
        if not members:
            return 0.0, 0.0
        settings, ranks = self.settings, self.ranks
        weights = [self._targets[number].weights for number in members]
        groups = [self._group(number) for number in members]
        device = next(self.policy.parameters()).device
        parts, order = deal(groups, ranks, settings.max_tokens, device)
        flat = torch.tensor([share for number in order for share in weights[number]], device=device)
        total = 0.0
        for part, counts in ranks.share(parts):
            logprobs = ranks.call(token_logprobs, self.policy, part.packed, self.sources[0].sampling.temperature)
            loss = -(flat[part.rows][part.packed.response_index] * logprobs.logprobs).sum() * counts / len(groups)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = self._optimiser.step(self._schedule.share(self.position.updates))
        return ranks.sums({"loss": total})["loss"], norm

    def _group(self, number: int) -> Group:
        """A state of the pool with what the policy imitates there."""
        place = self.pool.states[number]
        return Group(self.states.of(place.conversation)[place.turn].prompt, self._targets[number].responses)

    # Guards -------------------------------------------------------------------------------------------------------

    def _end_pass(self) -> None:
        """Looks at the probe: keeps the policy if it is the best within the budget, and lowers a tilt that is not."""
        position, settings = self.position, self.settings
        assert self._tilt is not None  # the pass used it
        kl, lift = self._look()
        position.curves.append(
            {
                "update": position.updates,
                "kl": kl,
                "q_lift": lift,
                "policy_loss": position.loss / self._batches,
                "grad_norm": position.norm,
                "learning_rate": settings.learning_rate * self._schedule.share(position.updates - 1),
                "kl_coefficient": self._tilt.temperature,
                "tilt_kl": float(self._tilt.kl.mean()),
                "tilt_q_lift": float(self._tilt.gain(self.pool.table()).mean()),
            }
        )
        if kl <= settings.budget_factor * settings.kl_target and lift > position.best_lift:
            position.best_lift, position.kept_update = lift, position.updates
            self._best.take()
        if kl > settings.kl_target:
            position.budget *= settings.kl_target / kl
            self._tilt = None
        position.epoch, position.batch, position.loss, position.norm = position.epoch + 1, 0, 0.0, 0.0
        if position.epoch == settings.epochs:
            self._end(f"all {position.epoch} passes over {len(self.pool.states)} states were made")

    def _look(self) -> tuple[float, float]:
        """KL to pi_i, and E[Q] less that of pi_i, on the probe; without a probe, on nothing."""
        if len(self.probe) < 2:
            return 0.0, float(self.position.updates)
        if self._base is None:
            self._base = self.probe.measure(self.reference, None)
        measured = self.probe.measure(self.policy, self.reference)
        return measured.mean_kl().estimate, measured.lift_over(self._base).estimate

    def _end(self, reason: str) -> None:
        position = self.position
        position.ended = reason
        position.kept = "last" if position.kept_update == position.updates else "best"

    # State --------------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, StatePart]:
        return {"policy": Weights(self.policy), "best": self._best, "optimiser": self._optimiser, "pool": self.pool}

    def facts(self) -> dict[str, Any]:
        return asdict(self.position)

    def restore(self, facts: dict[str, Any]) -> None:
        self.position = Position(**facts)
