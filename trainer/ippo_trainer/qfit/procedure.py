"""Fitting Q from start to end: on Monte Carlo returns first, then, if asked for, on lambda-returns."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.adapters import is_adapted
from ippo_trainer.models.parts import decoder
from ippo_trainer.qfit.examples import Example, Targets, turn_offsets
from ippo_trainer.qfit.outlook import LanguageHead
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.targets import ReturnWeights, emphasised, lambda_targets, monte_carlo_targets
from ippo_trainer.qfit.trainer import Fit, FitData, FitSettings
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.distributed import ALONE, Ranks

MONTE_CARLO, LAMBDA = "monte-carlo", "lambda"
"""What the epochs of a fit regress."""
MONTE_CARLO_SHARE = 1 / 2
"""Of the epochs, and at least one epoch: V must know something before it stands in for returns."""


@dataclass(frozen=True, slots=True)
class Side:
    """Conversations and their rendered examples, in the same order."""

    conversations: Sequence[Conversation]
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Split:
    """What Q is fitted to."""

    train: Side
    held: Side
    """What stops early."""
    log: Sequence[Conversation]
    """All conversations that both sides are from, the censored ones too: what is explored and what is cut off is
    counted on them, since those with a known end are not like the others."""


class Values:
    """V of every training turn, as it was when an epoch began; a `StatePart`. Empty before the first that reads it."""

    def __init__(self) -> None:
        self.of_turns = torch.empty(0, dtype=torch.float64)
        """(turns,)"""

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        yield "values", self.of_turns

    def layout(self) -> Mapping[str, Tensor | None]:
        return {"values": None}

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for _, tensor in tensors:
            self.of_turns = tensor.cpu()


class Procedure:
    """One fit, whose targets follow the model; a `Loop`.

    With `trace_lambda` below 1 only the first epochs regress Monte Carlo returns. From then on V, as it is when an
    epoch begins, stands in for what follows the next turn: lambda-returns have less variance than the outcome, which is
    one bit for a whole conversation. Early stopping looks at Monte Carlo returns throughout: they owe nothing to V.

    Args:
        model: the Q model, trained in place.
        language: see `language_head`; None for none.
        settings: of the fit.
        split: what is trained on, and what stops early.
        ranks: the processes that share the forwards.
    """

    def __init__(
        self, model: Any, language: LanguageHead | None, settings: FitSettings, split: Split, ranks: Ranks = ALONE
    ) -> None:
        self.ranks = ranks
        self.model, self.settings, self.split = model, settings, split
        self.weights = ReturnWeights.of(split.log, settings.discount)
        self.monte_carlo_epochs = settings.epochs
        if settings.trace_lambda < 1.0:
            self.monte_carlo_epochs = max(1, int(MONTE_CARLO_SHARE * settings.epochs))
        self._values = Values()
        self._values_epoch = -1
        """The epoch that they are of."""
        train, held = (FitData(side.examples, self._monte_carlo(side)) for side in (split.train, split.held))
        self.fit = Fit(model, language, settings, train, held, ranks, self._targets_of)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.fit.updates

    @property
    def total(self) -> int:
        return self.settings.epochs * self.fit.updates_per_epoch

    @property
    def curves(self) -> list[dict[str, float | str]]:
        """A row by epoch; `phase` says which returns it was trained on."""
        return [{**row, "phase": self._phase(int(row["epoch"]))} for row in self.fit.position.curves]

    def figures(self) -> dict[str, float]:
        position = self.fit.position
        losses = {"held_out_loss": position.curves[-1]["held_out_loss"]} if position.curves else {}
        return {"epoch": float(position.epoch)} | losses

    def run(self, after_step: Callable[[], None]) -> None:
        self.fit.run(after_step)

    def parts(self) -> dict[str, StatePart]:
        return {**self.fit.parts(), "values": self._values}

    def facts(self) -> dict[str, Any]:
        return {"values_epoch": self._values_epoch, "fit": self.fit.facts()}

    def restore(self, facts: dict[str, Any]) -> None:
        self._values_epoch = facts["values_epoch"]
        self.fit.restore(facts["fit"])

    def _phase(self, epoch: int) -> str:
        return MONTE_CARLO if epoch < self.monte_carlo_epochs else LAMBDA

    def _targets_of(self, epoch: int) -> Targets:
        """Of the training turns. V is read once an epoch: a fit that goes on in the middle of one has what was read."""
        side = self.split.train
        if self._phase(epoch) == MONTE_CARLO:
            return self._monte_carlo(side)
        if epoch != self._values_epoch:
            self._values.of_turns, self._values_epoch = self._read_values(side), epoch
        settings, rows = self.settings, []
        for each, (begin, end) in zip(side.conversations, pairwise(turn_offsets(side.examples)), strict=True):
            values = self._values.of_turns[begin:end].tolist()
            targets = lambda_targets(each, settings.discount, settings.trace_lambda, values, self.weights.censoring)
            rows.append(emphasised(targets, each))
        return Targets.of(rows)

    def _monte_carlo(self, side: Side) -> Targets:
        return Targets.of([emphasised(monte_carlo_targets(each, self.weights), each) for each in side.conversations])

    def _read_values(self, side: Side) -> Tensor:
        """V of every turn; each process reads every n-th conversation."""
        ranks, device = self.ranks, next(self.model.parameters()).device
        own = side.examples[ranks.rank :: ranks.size]
        values = read_all(self.model, own, self.settings.max_tokens, device)[1].tolist() if own else []
        shares = [iter(share) for share in ranks.gathered(values)]
        numbers = (number for number, each in enumerate(side.examples) for _ in each.groups)
        return torch.tensor([next(shares[number % ranks.size]) for number in numbers], dtype=torch.float64)


def language_head(policy_model: Any, q_model: Any) -> LanguageHead:
    """Reads the vocabulary from the Q model's hidden states; its output map is started from the policy's.

    It shares the Q model's embeddings where the policy's head does. Of a shared base it is the base's own, frozen.
    """
    return LanguageHead(_output(policy_model, q_model), q_model.config.hidden_size)


def _output(policy_model: Any, q_model: Any) -> Any:
    output = policy_model.get_output_embeddings()
    if is_adapted(policy_model):
        return output
    tied = output.weight is policy_model.get_input_embeddings().weight
    result: nn.Linear = copy.deepcopy(output)
    if tied:
        result.weight = decoder(q_model).get_input_embeddings().weight
    return result.requires_grad_(True)
