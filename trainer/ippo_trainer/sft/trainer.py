"""Supervised learning of what the business wrote: next-token prediction on the suggestions of whole conversations.

The order of rows and the learning rate are functions of the step, and there is no dropout, so weights, Adam's moments
and the losses so far are the whole state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.budget import warm_start_tokens
from ippo_trainer.models.parts import decoder, head
from ippo_trainer.sft.order import training_order, updates_of_new_rows
from ippo_trainer.text.rows import Row
from ippo_trainer.training.checkpoint import StatePart, Weights
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.schedule import Schedule

_BETAS = (0.9, 0.98)
_NEW_PART = 10


@dataclass(frozen=True, slots=True)
class SupervisedSettings:
    """What shapes the training; see `params.WarmStart`."""

    epochs: int
    learning_rate: float
    batch_size: int
    """Rows per update."""
    seed: int
    pad_id: int
    """Fills the ends of short rows; nothing attends to it."""


class SupervisedFit:
    """Trains a causal LM in place on the suggestions of `rows`; a `Loop`.

    Raises:
        BadDataError: the loss is no longer finite.
    """

    def __init__(self, model: Any, rows: Sequence[Row], settings: SupervisedSettings, ranks: Ranks = ALONE) -> None:
        self.model, self.rows, self.settings, self.ranks = model, rows, settings, ranks
        self.losses: list[float] = []
        """Mean cross-entropy per suggestion token of each update, in nats."""
        self._order = training_order(
            [len(row.ids) for row in rows], settings.epochs, settings.batch_size, settings.seed
        )
        self._schedule = Schedule.of_fit(self.total)
        self._optimiser = Optimiser(model.parameters(), settings.learning_rate, betas=_BETAS, ranks=ranks)

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def total(self) -> int:
        return math.ceil(len(self._order) / self.settings.batch_size)

    def figures(self) -> dict[str, float]:
        return {"loss": self.losses[-1]} if self.losses else {}

    def new_loss(self) -> float | None:
        """Mean loss of the last tenth of the updates whose rows came for the first time, each as it was before that
        update: a held-out loss for which nothing is held out (prequential: Dawid 1984). None where there are none."""
        count = updates_of_new_rows(len(self.rows), self.settings.epochs, self.settings.batch_size)
        new = self.losses[count - max(1, count // _NEW_PART) : count] if count else []
        return sum(new) / len(new) if new else None

    def run(self, after_step: Callable[[], None]) -> None:
        tokens = warm_start_tokens(self.model.config)
        longest = max(len(row.ids) for row in self.rows)
        if longest > tokens:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        rows = _rows_per_forward(self.settings.batch_size, longest, tokens)
        self.model.train()  # there is no dropout; only activation checkpoints ask
        while self.steps < self.total:
            self.losses.append(self._update(rows))
            after_step()
        self.model.eval()
        self.model.gradient_checkpointing_disable()

    def parts(self) -> dict[str, StatePart]:
        return {"model": Weights(self.model), "optimiser": self._optimiser}

    def facts(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def restore(self, facts: dict[str, Any]) -> None:
        self.losses = facts["losses"]

    def _update(self, rows_per_forward: int) -> float:
        """One step of the optimiser; gradients accumulate over forwards. Returns the loss before it."""
        start = self.steps * self.settings.batch_size
        rows = [self.rows[number] for number in self._order[start : start + self.settings.batch_size]]
        tokens = sum(sum(row.response_mask) for row in rows)
        own = rows[self.ranks.rank :: self.ranks.size]
        summed = torch.zeros((), device=next(self.model.parameters()).device)
        for first in range(0, len(own), rows_per_forward):
            loss = self._loss_sum(own[first : first + rows_per_forward]) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            summed += loss.detach()
        total = self.ranks.sums({"loss": float(summed)})["loss"]
        if not math.isfinite(total):
            raise BadDataError(
                f"the loss of the warm start is {total} at step {self.steps}", "Lower warmStart.learningRate."
            )
        self._optimiser.step(self._schedule.share(self.steps))
        return total

    def _loss_sum(self, rows: Sequence[Row]) -> Tensor:
        """Summed cross-entropy of the suggestions' tokens; only their positions are projected to the vocabulary."""
        ids, attended, learnt = self._tables(rows)
        states = decoder(self.model)(input_ids=ids, attention_mask=attended, use_cache=False).last_hidden_state
        logits = head(self.model)(states[:, :-1][learnt]).float()
        return torch.nn.functional.cross_entropy(logits, ids[:, 1:][learnt], reduction="sum")

    def _tables(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (R, L), which of them are no padding (R, L), and which of all but the first are learnt (R, L-1)."""
        shape = len(rows), max(len(row.ids) for row in rows)
        ids = torch.full(shape, self.settings.pad_id)
        attended, learnt = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            count = len(row.ids)
            ids[number, :count] = torch.tensor(row.ids)
            attended[number, :count] = 1
            learnt[number, :count] = torch.tensor(row.response_mask)
        device = next(self.model.parameters()).device
        return ids.to(device), attended.to(device), learnt[:, 1:].to(device)


def _rows_per_forward(batch_size: int, longest: int, tokens: int) -> int:
    """The largest divisor of a batch whose rows have at most `tokens` tokens; one where a row alone has more."""
    divisors = [count for count in range(1, batch_size + 1) if batch_size % count == 0]
    return max(count for count in divisors if count == 1 or count * longest <= tokens)
