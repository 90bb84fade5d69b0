"""Fitting Q from start to end: Monte Carlo first, then, if asked for, a refit on lambda-returns."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.adapters import is_adapted
from ippo_trainer.models.parts import decoder
from ippo_trainer.qfit.examples import Example, Targets, turn_offsets
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.targets import emphasised, explored_share, lambda_targets, monte_carlo_targets
from ippo_trainer.qfit.trainer import Fit, FitData, FitSettings
from ippo_trainer.training.checkpoint import StatePart
from ippo_trainer.training.distributed import ALONE, Ranks

PHASES = ("monte-carlo", "lambda")


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


class Procedure:
    """One or two fits in a row; a `Loop`.

    With `trace_lambda` below 1 the Monte Carlo fit's own V, frozen, stands in for what follows the next turn, and Q is
    refitted to the lambda-returns: they have less variance than the outcome, which is one bit for a whole conversation.

    Args:
        model: the Q model, trained in place.
        lm_head: see `language_head`.
        settings: of both fits.
        split: what is trained on, and what stops early.
        ranks: the processes that share the forwards.
    """

    def __init__(self, model: Any, lm_head: Any, settings: FitSettings, split: Split, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.model, self.lm_head, self.settings, self.split = model, lm_head, settings, split
        self.explore_share, self.censoring = explored_share(split.log), Censoring.of(split.log)
        self.phases = PHASES[: 1 if settings.trace_lambda == 1.0 else 2]
        self.phase = 0
        self.curves: list[dict[str, float | str]] = []
        self._values: dict[str, list[float]] = {}
        """V of every turn by the first fit, by side."""
        self.fit = self._new_fit()

    @property
    def steps(self) -> int:
        """Updates so far, those of finished phases counted in full."""
        return self.phase * self._updates_per_phase + self.fit.updates

    @property
    def total(self) -> int:
        return len(self.phases) * self._updates_per_phase

    @property
    def _updates_per_phase(self) -> int:
        return self.settings.epochs * self.fit.updates_per_epoch

    def figures(self) -> dict[str, float]:
        position = self.fit.position
        losses = {"held_out_loss": position.curves[-1]["held_out_loss"]} if position.curves else {}
        return {"epoch": float(position.epoch)} | losses

    def run(self, after_step: Callable[[], None]) -> None:
        while True:
            self.fit.run(after_step)
            before, phase = len(self.curves), self.phases[self.phase]
            rows = self.fit.position.curves
            self.curves += [{**row, "epoch": before + row["epoch"], "phase": phase} for row in rows]
            if self.phase + 1 == len(self.phases):
                return
            self._values = {name: self._read_values(side) for name, side in self._sides().items()}
            self.phase += 1
            self.fit = self._new_fit()

    def parts(self) -> dict[str, StatePart]:
        return self.fit.parts()

    def facts(self) -> dict[str, Any]:
        return {"phase": self.phase, "curves": self.curves, "values": self._values, "fit": self.fit.facts()}

    def restore(self, facts: dict[str, Any]) -> None:
        self.phase, self.curves, self._values = facts["phase"], facts["curves"], facts["values"]
        self.fit = self._new_fit()
        self.fit.restore(facts["fit"])

    def _new_fit(self) -> Fit:
        """Of this phase, at its beginning."""
        settings = replace(self.settings, seed=derive_seed(self.settings.seed, self.phases[self.phase]))
        train, held = (FitData(side.examples, self._targets(name, side)) for name, side in self._sides().items())
        return Fit(self.model, self.lm_head, settings, train, held, self.ranks)

    def _sides(self) -> dict[str, Side]:
        return {"train": self.split.train, "held": self.split.held}

    def _targets(self, name: str, side: Side) -> Targets:
        settings, offsets = self.settings, turn_offsets(side.examples)
        rows = []
        for number, each in enumerate(side.conversations):
            if self.phase == 0:
                targets = monte_carlo_targets(each, settings.discount, self.explore_share, self.censoring)
            else:
                values = self._values[name][offsets[number] : offsets[number + 1]]
                targets = lambda_targets(each, settings.discount, settings.trace_lambda, values, self.censoring)
            rows.append(emphasised(targets, each))
        return Targets.of(rows)

    def _read_values(self, side: Side) -> list[float]:
        """V of every turn; each process reads every n-th conversation."""
        ranks, device = self.ranks, next(self.model.parameters()).device
        own = side.examples[ranks.rank :: ranks.size]
        values = read_all(self.model, own, self.settings.max_tokens, device)[1].tolist() if own else []
        shares = [iter(share) for share in ranks.gathered(values)]
        return [next(shares[number % ranks.size]) for number, each in enumerate(side.examples) for _ in each.groups]


def language_head(policy_model: Any, q_model: Any) -> Any:
    """A map from the Q model's hidden states to the vocabulary, started from the policy's.

    It shares the Q model's embeddings where the policy's head does. Of a shared base it is the base's own, frozen.
    """
    output = policy_model.get_output_embeddings()
    if is_adapted(policy_model):
        return output
    tied = output.weight is policy_model.get_input_embeddings().weight
    result: nn.Linear = copy.deepcopy(output)
    if tied:
        result.weight = decoder(q_model).get_input_embeddings().weight
    return result.requires_grad_(True)
