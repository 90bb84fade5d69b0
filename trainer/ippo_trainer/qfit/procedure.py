"""Fitting Q from start to end: Monte Carlo first, then, if asked for, a refit on lambda-returns."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.parts import decoder
from ippo_trainer.qfit.examples import Example, Targets, turn_offsets
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.targets import explored_share, lambda_targets, monte_carlo_targets
from ippo_trainer.qfit.trainer import Fit, FitSettings, Side
from ippo_trainer.stats.intervals import Floats

PHASES = ("monte-carlo", "lambda")


@dataclass(frozen=True, slots=True)
class Part:
    """Conversations and their rendered examples, in the same order."""

    conversations: Sequence[Conversation]
    examples: Sequence[Example]


class Procedure:
    """One or two fits in a row, resumable at every update.

    With `trace_lambda` below 1 the Monte Carlo fit's own V, frozen, stands in for what follows the next turn, and Q is
    refitted to the lambda-returns: they have less variance than the outcome, which is one bit for a whole conversation.

    Args:
        model: the Q model, trained in place.
        lm_head: see `language_head`.
        settings: of both fits.
        train: what is trained on.
        held: what stops early.
        discount: per turn.
        trace_lambda: 1 for Monte Carlo alone.
        log: all conversations that both parts are from, the censored ones too: what is explored and what is cut off is
            counted on them, since those with a known end are not like the others. None: there are no others.
    """

    def __init__(
        self,
        model: Any,
        lm_head: Any,
        settings: FitSettings,
        train: Part,
        held: Part,
        discount: float,
        trace_lambda: float,
        log: Sequence[Conversation] | None = None,
    ) -> None:
        self.model, self.lm_head, self.settings = model, lm_head, settings
        self.train, self.held = train, held
        self.discount, self.trace_lambda = discount, trace_lambda
        log = [*train.conversations, *held.conversations] if log is None else log
        self.explore_share, self.censoring = explored_share(log), Censoring.of(log)
        self.phases = PHASES[: 1 if trace_lambda == 1.0 else 2]
        self.phase = 0
        self.curves: list[dict[str, float | str]] = []
        self._values: dict[str, Tensor] = {}
        self.fit = self._make_fit()

    @property
    def updates(self) -> int:
        """Updates so far, those of finished phases counted in full."""
        return self.phase * self.updates_per_phase + self.fit.updates

    @property
    def updates_per_phase(self) -> int:
        """Most updates that one phase can take."""
        return self.settings.epochs * self.fit.updates_per_epoch

    def run(self, after_update: Callable[[], None]) -> None:
        """Runs the remaining phases; `after_update` as in `Fit.run`."""
        while True:
            self.fit.run(after_update)
            before, phase = len(self.curves), self.phases[self.phase]
            rows = self.fit.position.curves
            self.curves += [{**row, "epoch": before + row["epoch"], "phase": phase} for row in rows]
            if self.phase + 1 == len(self.phases):
                return
            self._values = {"train": self._read_values(self.train), "held": self._read_values(self.held)}
            self.phase += 1
            self.fit = self._make_fit()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: tensors and JSON-able facts."""
        tensors, position = self.fit.state()
        tensors |= {f"values.{name}": value for name, value in self._values.items()}
        return tensors, {"phase": self.phase, "curves": self.curves, "position": position}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Puts back what `state` gave, into a procedure made with the same arguments."""
        self.phase, self.curves = facts["phase"], facts["curves"]
        self._values = {name: tensors[f"values.{name}"] for name in ("train", "held") if f"values.{name}" in tensors}
        self.fit = self._make_fit()
        self.fit.restore(tensors, facts["position"])

    def _make_fit(self) -> Fit:
        settings = replace(self.settings, seed=derive_seed(self.settings.seed, self.phases[self.phase]))
        train, held = (Side(part.examples, self._targets(part, name)) for part, name in self._parts())
        return Fit(self.model, self.lm_head, settings, train, held)

    def _parts(self) -> list[tuple[Part, str]]:
        return [(self.train, "train"), (self.held, "held")]

    def _targets(self, part: Part, name: str) -> Targets:
        if self.phase == 0:
            return Targets.of(
                [
                    monte_carlo_targets(found, self.discount, self.explore_share, self.censoring)
                    for found in part.conversations
                ]
            )
        offsets, values = turn_offsets(part.examples), self._values[name].tolist()
        return Targets.of(
            [
                lambda_targets(
                    found,
                    self.discount,
                    self.trace_lambda,
                    values[offsets[index] : offsets[index + 1]],
                    self.censoring,
                )
                for index, found in enumerate(part.conversations)
            ]
        )

    def _read_values(self, part: Part) -> Tensor:
        device = next(self.model.parameters()).device
        values: Floats = read_all(self.model, part.examples, self.settings.max_tokens, device)[1]
        return torch.from_numpy(values)


def language_head(policy_model: Any, q_model: Any) -> Any:
    """A map from the Q model's hidden states to the vocabulary, started from the policy's.

    It shares the Q model's embeddings where the policy's head does.
    """
    output = policy_model.get_output_embeddings()
    tied = output.weight is policy_model.get_input_embeddings().weight
    made: nn.Linear = copy.deepcopy(output)
    if tied:
        made.weight = decoder(q_model).get_input_embeddings().weight
    return made.requires_grad_(True)
