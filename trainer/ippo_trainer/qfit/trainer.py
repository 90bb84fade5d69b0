"""The training loop of Q: batches of conversations, early stopping, and a state that can be saved and restored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.qfit.examples import Example, Targets, make_parts, shuffled_batches, turn_offsets
from ippo_trainer.qfit.losses import VALUE_WEIGHT, loss_sums

WARMUP = 0.05
FINAL_RATE = 0.1
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What shapes one fit; see `params.FitQ`."""

    epochs: int
    patience: int
    learning_rate: float
    batch_size: int
    lm_loss_weight: float
    seed: int
    max_tokens: int = 1 << 14
    """Tokens of one forward; larger batches accumulate gradients."""


@dataclass(frozen=True, slots=True)
class Side:
    """The training or the held-out conversations, with targets of all their turns."""

    examples: Sequence[Example]
    targets: Targets


@dataclass
class Position:
    """Where a fit is. All of it goes into a checkpoint as JSON."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    """Q's cross-entropy over the turns trained on in this epoch."""
    turns: int = 0
    best_loss: float = math.inf
    waited: int = 0
    """Epochs since the best one, counted from when the fit beats a constant."""
    done: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)


class Fit:
    """Fits Q and V to given targets and keeps the weights with the best held-out loss of Q.

    Args:
        model: the Q model to train, in place; it ends with the best weights.
        lm_head: linear map to the vocabulary for the auxiliary loss, None for none; trained, but no part of the result.
        settings: see there.
        train: what the gradient sees.
        held: what early stopping sees.
    """

    def __init__(self, model: Any, lm_head: Any, settings: FitSettings, train: Side, held: Side) -> None:
        self.model, self.lm_head, self.settings = model, lm_head, settings
        self.device = next(model.parameters()).device
        self.train, self.held = (_to_device(side, self.device) for side in (train, held))
        self.position = Position()
        self.parameters = _parameters(model, lm_head)
        self.optimiser = _optimiser(self.parameters, settings.learning_rate)
        self.best: dict[str, Tensor] = {}
        self._batches = shuffled_batches(train.examples, settings.batch_size, derive_seed(settings.seed, "batches"))
        self._offsets = turn_offsets(train.examples)
        self._constant_loss = constant_loss(train.targets, held.targets)

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
            while self.position.batch < len(order):
                self._update(order[self.position.batch])
                self.position.batch += 1
                if self.position.batch == len(order):
                    self._end_epoch()
                    after_update()
                    break
                after_update()
        self.model.load_state_dict(self.best)

    def held_out_loss(self) -> float:
        """Q's mean weighted cross-entropy on the held-out turns."""
        total, held = 0.0, self.held
        offsets = turn_offsets(held.examples)
        with torch.no_grad():
            for part in make_parts(held.examples, range(len(held.examples)), offsets, self.settings.max_tokens):
                total += float(loss_sums(self.model, None, part.to(self.device), held.targets).q)
        return total / float(held.targets.weight.double().sum())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs to go on bit-equal: tensors, and JSON-able facts."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.parameters.items():
            if name.startswith("lm_head."):
                tensors[name] = parameter.detach()
            moments = self.optimiser.state[parameter]
            tensors |= {f"optimiser.{key}.{name}": moments[key] for key in _MOMENTS if key in moments}
        return {name: value.contiguous() for name, value in tensors.items()}, asdict(self.position)

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Puts back what `state` gave, into a fit made with the same arguments."""
        self.model.load_state_dict(_under("model.", tensors))
        self.best = {name: value.to(self.device) for name, value in _under("best.", tensors).items()}
        moments = _under("optimiser.", tensors)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if name.startswith("lm_head."):
                    parameter.copy_(tensors[name])
                # The fused optimiser wants `step` on the device, too.
                state = {
                    key: moments[f"{key}.{name}"].to(self.device) for key in _MOMENTS if f"{key}.{name}" in moments
                }
                self.optimiser.state[parameter] = state
        self.position = Position(**facts)

    def _order(self) -> list[list[int]]:
        seed = derive_seed(self.settings.seed, "epoch", self.position.epoch)
        generator = torch.Generator().manual_seed(seed)
        return [self._batches[number] for number in torch.randperm(len(self._batches), generator=generator).tolist()]

    def _update(self, members: Sequence[int]) -> None:
        settings, position = self.settings, self.position
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * self._schedule()
        head = self.lm_head if settings.lm_loss_weight > 0 else None
        parts = make_parts(self.train.examples, members, self._offsets, settings.max_tokens)
        turns = sum(len(part.turns) for part in parts)
        tokens = sum(len(part.lm_token) for part in parts)
        for part in parts:
            sums = loss_sums(self.model, head, part.to(self.device), self.train.targets)
            loss = (sums.q + VALUE_WEIGHT * sums.v) / turns + settings.lm_loss_weight * sums.lm / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            position.loss_sum += float(sums.q.detach())
        if not math.isfinite(position.loss_sum):
            raise BadDataError(
                f"the loss of Q is {position.loss_sum} after {self.updates} updates", "Lower fitQ.learningRate."
            )
        position.turns += turns
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to a tenth over the most epochs there can be."""
        total = self.settings.epochs * len(self._batches)
        warm = max(1, round(WARMUP * total))
        if self.updates < warm:
            return (self.updates + 1) / warm
        share = (self.updates - warm) / max(1, total - warm)
        return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))

    def _end_epoch(self) -> None:
        position, loss = self.position, self.held_out_loss()
        train_loss = position.loss_sum / max(1, position.turns)
        position.curves.append({"epoch": position.epoch, "train_loss": train_loss, "held_out_loss": loss})
        if loss < position.best_loss or not self.best:
            position.best_loss, position.waited = loss, 0
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        elif position.best_loss < self._constant_loss:
            # Before, nothing was learnt that could be lost again, and held-out losses go up and down by chance.
            position.waited += 1
        position.epoch, position.batch, position.loss_sum, position.turns = position.epoch + 1, 0, 0.0, 0
        position.done = position.epoch >= self.settings.epochs or position.waited >= self.settings.patience


def constant_loss(train: Targets, held: Targets) -> float:
    """Mean weighted cross-entropy on `held` of predicting the weighted mean of `train` everywhere."""
    mean = (train.value * train.weight).double().sum() / train.weight.double().sum()
    losses = functional.binary_cross_entropy(
        mean.clamp(1e-7, 1 - 1e-7).expand(len(held.value)), held.value.double(), held.weight.double(), reduction="sum"
    )
    return float(losses / held.weight.double().sum())


def _parameters(model: Any, lm_head: Any) -> dict[str, Tensor]:
    """Trainable parameters by name; a head tied to the embeddings comes once, with the model."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    known = {id(parameter) for parameter in named.values()}
    if lm_head is not None:
        named |= {f"lm_head.{name}": value for name, value in lm_head.named_parameters() if id(value) not in known}
    return named


def _optimiser(parameters: dict[str, Tensor], learning_rate: float) -> torch.optim.AdamW:
    decayed = [value for value in parameters.values() if value.dim() >= 2]
    plain = [value for value in parameters.values() if value.dim() < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _to_device(side: Side, device: torch.device) -> Side:
    targets = side.targets
    moved = Targets(targets.value.to(device), targets.weight.to(device), targets.value_weight.to(device))
    return Side(side.examples, moved)
