"""The training loop of Q: batches of conversations, early stopping, and a state that can be saved and restored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.budget import FIT_TOKENS
from ippo_trainer.qfit.examples import Example, Targets, pack_turns, shuffled_batches, turn_offsets, with_words_ahead
from ippo_trainer.qfit.losses import VALUE_WEIGHT, loss_sums
from ippo_trainer.qfit.outlook import LanguageHead
from ippo_trainer.training.checkpoint import StatePart, Weights, WeightsSnapshot
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import FINAL_RATE, Schedule

WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What shapes one fit; see `params.FitQ`."""

    epochs: int
    patience: int
    learning_rate: float
    batch_size: int
    lm_loss_weight: float
    discount: float
    """Per turn."""
    trace_lambda: float
    """1 for Monte Carlo alone."""
    seed: int
    max_tokens: int = FIT_TOKENS
    """Tokens of one forward; larger batches accumulate gradients."""


@dataclass(frozen=True, slots=True)
class FitData:
    """The training or the held-out conversations, with targets of all their turns."""

    examples: Sequence[Example]
    targets: Targets


@dataclass
class FitPosition:
    """Where a fit is. All of it goes into a checkpoint as JSON."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    """Q's cross-entropy over the turns trained on in this epoch."""
    turns: int = 0
    best_loss: float | None = None
    waited: int = 0
    """Epochs since the best one, counted from when the fit beats a constant."""
    done: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)


class Fit:
    """Fits Q and V to given targets and keeps the weights with the best held-out loss of Q; a `ResumableTraining`.

    Args:
        model: the Q model to train, in place; it ends with the best weights.
        language: for the auxiliary losses, None for none; trained, but no part of the result.
        settings: see there.
        train: what the gradient sees.
        held: what early stopping sees.
        ranks: the processes that share the forwards.
        targets_of: of the training turns, by epoch, called when it begins or goes on; None keeps `train`'s.
    """

    def __init__(
        self,
        model: Any,
        language: LanguageHead | None,
        settings: FitSettings,
        train: FitData,
        held: FitData,
        ranks: Ranks = ALONE,
        targets_of: Callable[[int], Targets] | None = None,
    ) -> None:
        self.ranks, self._targets_of = ranks, targets_of
        self.model, self.language, self.settings = model, language, settings
        self.device = next(model.parameters()).device
        self.train, self.held = (FitData(data.examples, data.targets.to(self.device)) for data in (train, held))
        self.position = FitPosition()
        self.best = WeightsSnapshot(model)
        # A head tied to the embeddings comes once, with the model.
        self._weights = Weights(nn.ModuleDict({"q": model} | ({"language": language} if language is not None else {})))
        self._optimiser = Optimiser(
            self._weights.layout().values(), settings.learning_rate, decay=WEIGHT_DECAY, ranks=ranks
        )
        self._batches = shuffled_batches(train.examples, settings.batch_size, derive_seed(settings.seed, "batches"))
        self._schedule = Schedule.of_fit(settings.epochs * len(self._batches), FINAL_RATE)
        self._offsets = turn_offsets(train.examples)
        self._constant_loss = constant_loss(train.targets, held.targets)
        self._targets_epoch = -1

    @property
    def updates_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return len(self._batches)

    @property
    def updates(self) -> int:
        """Optimiser steps so far."""
        return self.position.epoch * len(self._batches) + self.position.batch

    def run(self, after_update: Callable[[], None]) -> None:
        """Trains until the epochs or the patience are over, then puts the best weights into the model.

        Args:
            after_update: called after every update, when the state is complete; it may save, report or raise.
        """
        while not self.position.done:
            order = self._order()
            self._renew_targets()
            self._update(order[self.position.batch])
            self.position.batch += 1
            if self.position.batch == len(order):
                self._end_epoch()
            after_update()
        self.best.put_back()

    def held_out_loss(self) -> float:
        """Q's mean weighted cross-entropy on the held-out turns."""
        total, held = 0.0, self.held
        offsets = turn_offsets(held.examples)
        with torch.no_grad():
            for piece in pack_turns(
                held.examples, self._own(range(len(held.examples))), offsets, self.settings.max_tokens
            ):
                total += float(loss_sums(self.model, None, piece.to(self.device), held.targets).q)
        return self.ranks.sums({"q": total})["q"] / float(held.targets.weight.double().sum())

    def parts(self) -> dict[str, StatePart]:
        return {"model": self._weights, "optimiser": self._optimiser, "best": self.best}

    def facts(self) -> dict[str, Any]:
        return asdict(self.position)

    def restore(self, facts: dict[str, Any]) -> None:
        self.position = FitPosition(**facts)

    def _renew_targets(self) -> None:
        """Lets the training turns have this epoch's targets."""
        if self._targets_of is not None and self.position.epoch != self._targets_epoch:
            self._targets_epoch = self.position.epoch
            self.train = replace(self.train, targets=self._targets_of(self._targets_epoch).to(self.device))

    def _order(self) -> list[list[int]]:
        """The batches of this epoch."""
        seed = derive_seed(self.settings.seed, "epoch", self.position.epoch)
        generator = torch.Generator().manual_seed(seed)
        return [self._batches[number] for number in torch.randperm(len(self._batches), generator=generator).tolist()]

    def _own(self, members: Sequence[int]) -> Sequence[int]:
        """This process's share."""
        return members[self.ranks.rank :: self.ranks.size]

    def _update(self, members: Sequence[int]) -> None:
        """One step of the optimiser on some conversations; gradients accumulate over forwards."""
        settings, position = self.settings, self.position
        language = self.language if settings.lm_loss_weight > 0 else None
        batch = self.train.examples, self._own(members), self._offsets
        pieces = pack_turns(*batch, settings.max_tokens)
        if language is not None:
            pieces = with_words_ahead(pieces, *batch)
        turns = sum(len(self.train.examples[member].groups) for member in members)
        tokens = int(self.ranks.sums({"tokens": float(sum(len(piece.lm_token) for piece in pieces))})["tokens"])
        loss_sum = 0.0
        for piece in pieces:
            sums = loss_sums(self.model, language, piece.to(self.device), self.train.targets)
            loss = (sums.q + VALUE_WEIGHT * sums.v) / turns
            loss = loss + settings.lm_loss_weight * (sums.lm / tokens + sums.words / turns)
            loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += float(sums.q.detach())
        position.loss_sum += self.ranks.sums({"q": loss_sum})["q"]
        self._check_finite("the loss of Q", position.loss_sum)
        position.turns += turns
        self._optimiser.step(self._schedule.share(self.updates))

    def _end_epoch(self) -> None:
        position, loss = self.position, self.held_out_loss()
        self._check_finite("the held-out loss of Q", loss)
        train_loss = position.loss_sum / max(1, position.turns)
        position.curves.append({"epoch": position.epoch, "train_loss": train_loss, "held_out_loss": loss})
        if position.best_loss is None or loss < position.best_loss:
            position.best_loss, position.waited = loss, 0
            self.best.take()
        elif position.best_loss < self._constant_loss:
            # Before, nothing was learnt that could be lost again, and held-out losses go up and down by chance.
            position.waited += 1
        position.epoch, position.batch, position.loss_sum, position.turns = position.epoch + 1, 0, 0.0, 0
        position.done = position.epoch >= self.settings.epochs or position.waited >= self.settings.patience

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise BadDataError(f"{what} is {value} after {self.updates} updates", "Lower fitQ.learningRate.")


def constant_loss(train: Targets, held: Targets) -> float:
    """Mean weighted cross-entropy on `held` of predicting the weighted mean of `train` everywhere."""
    mean = (train.value * train.weight).double().sum() / train.weight.double().sum()
    losses = functional.binary_cross_entropy(
        mean.clamp(1e-7, 1 - 1e-7).expand(len(held.value)), held.value.double(), held.weight.double(), reduction="sum"
    )
    return float(losses / held.weight.double().sum())
