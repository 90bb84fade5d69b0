"""A fitted Q beside the exact one, where the environment knows it: for the suggestions that were made, and for all.

What was made is what the policy likes; what it must learn is what it does not do yet. As the policy narrows, a Q can
get better on the former and worse on the latter, so both are measured, on the same held-out states.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.protocol import ExactScorer, ExactTurn
from ippo_trainer.models.packing import Group, pack_batches
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.stats.intervals import Floats

MAX_CONVERSATIONS = 500
"""Held-out conversations whose states are asked about every intent."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the exact one a fitted Q is, over some pairs of state and suggestion."""

    error: float
    """Root mean square of Q less the exact Q."""
    correlation: float | None
    """Of Q - V with the exact advantage; None where one of them does not vary."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fitted Q against the exact Q of the intents that the policy shows."""

    suggestions: Likeness
    """Over the suggestions that were made."""
    intents: Likeness
    """Over every intent in every state, in one wording each."""

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """The field `exact` of `calibration.json`."""
        return {
            name: {"error": likeness.error, "correlation": likeness.correlation}
            for name, likeness in (("suggestions", self.suggestions), ("intents", self.intents))
        }

    def metrics(self) -> dict[str, float]:
        """The figures of the stage's result; what does not exist is left out."""
        figures = {
            "qError": self.suggestions.error,
            "qErrorAllIntents": self.intents.error,
            "advantageCorrelation": self.suggestions.correlation,
            "advantageCorrelationAllIntents": self.intents.correlation,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True, slots=True)
class States:
    """Held-out turns whose exact values are known, in order."""

    conversations: Sequence[Conversation]
    exact: Sequence[ExactTurn]


def exact_states(
    environment: ExactScorer, train: Sequence[Conversation], held: Sequence[Conversation], discount: float
) -> States | None:
    """The states of the held-out conversations in which nothing explored; None where these are fewer than two.

    Args:
        environment: solves itself exactly.
        train: with `held`, show the policy's intents, whose exact values are asked for.
        held: not trained on.
        discount: per turn.
    """
    clean, others = ([each for each in side if not any(map(explored, each.turns))] for side in (held, train))
    if len(clean) < 2:
        return None
    shown = clean[:MAX_CONVERSATIONS]
    rows = environment.exact_q([*shown, *clean[MAX_CONVERSATIONS:], *others], discount)[: len(shown)]
    return States(shown, [turn for row in rows for turn in row])


def read_intents(
    model: Any, renderer: Any, environment: ExactScorer, states: States, max_tokens: int
) -> tuple[Floats, Floats, Floats]:
    """Q of the suggestion that was made (n,), Q of every intent (n, intents), and V (n,), in the states' order.

    An intent's wording goes round with the turn's number; ABSTAIN is silence.
    """
    groups = list(_groups(renderer, environment, states))
    width = 1 + len(environment.intents)
    q, v = np.zeros((len(groups), width)), np.zeros(len(groups))
    device = next(model.parameters()).device
    with torch.no_grad():
        for numbers, packed in pack_batches(groups, max_tokens):
            logits = read_logits(model, packed.to(device))
            q[numbers] = logits.q.double().sigmoid().cpu().numpy().reshape(-1, width)
            v[numbers] = logits.v.double().sigmoid().cpu().numpy()
    return q[:, 0], q[:, 1:], v


def _groups(renderer: Any, environment: ExactScorer, states: States) -> Iterator[Group]:
    number = 0
    for conversation in states.conversations:
        for index, turn in enumerate(conversation.turns):
            texts = [turn.suggestion]
            for intent in environment.intents:
                wordings = environment.wordings.get(intent)
                texts.append(wordings[number % len(wordings)] if wordings else None)
            prompt = renderer.prompt_at(conversation, index).ids
            yield Group(prompt, [renderer.response(text) for text in texts])
            number += 1


def comparison_of(
    environment: ExactScorer, states: States, suggestions: Floats, intents: Floats, v: Floats
) -> Comparison | None:
    """Compares what `read_intents` gave with the exact values; None where no suggestion that was made parses."""
    exact_intents = np.array([[turn.q_policy[intent] for intent in environment.intents] for turn in states.exact])
    exact_v = np.array([turn.v_policy for turn in states.exact])
    parsed = np.array([turn.intent in turn.q_policy for turn in states.exact])
    if not parsed.any():
        return None
    exact_suggestions = np.array([turn.q_policy.get(turn.intent, 0.0) for turn in states.exact])
    return Comparison(
        suggestions=_likeness(suggestions[parsed], v[parsed], exact_suggestions[parsed], exact_v[parsed]),
        intents=_likeness(intents, v[:, None], exact_intents, exact_v[:, None]),
    )


def _likeness(q: Floats, v: Floats, exact_q: Floats, exact_v: Floats) -> Likeness:
    pairs = np.stack([(exact_q - exact_v).ravel(), (q - v).ravel()])
    varied = pairs.shape[1] > 1 and bool((pairs.std(axis=1) > 0).all())
    error = float(np.sqrt(np.mean(np.square(q - exact_q))))
    return Likeness(error, float(np.asarray(np.corrcoef(pairs))[0, 1]) if varied else None)
