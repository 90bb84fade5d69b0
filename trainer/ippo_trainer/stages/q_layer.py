"""The last layer of Q, as the stage fit-q fits it: what it is fitted to, and how far it may be off."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.last_layer import LastLayer
from ippo_trainer.qfit.examples import Example, make_examples
from ippo_trainer.qfit.least_squares import LeastSquaresSettings
from ippo_trainer.qfit.procedure import Procedure, Side, Split
from ippo_trainer.qfit.refit import Log, refit, turn_features
from ippo_trainer.stages.logged import finished, read_earlier
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.text.render import Renderer

TRUNK_ERROR = 2.0
"""The error of Q by how the fits of the last layer differ: all of them read one trunk, and what it cannot tell apart is
in none of their differences. On SR-funnel the exact error was 1.0 to 2.1 times them; see docs/ppo.md."""


def render(ctx: StageContext, conversations: Sequence[Conversation], renderer: Renderer) -> Side:
    """Conversations with their examples; says how much history did not fit."""
    examples, dropped = make_examples(conversations, renderer)
    if dropped:
        ctx.log.info("%d old turns did not fit into policy.maxPromptTokens and were dropped from prompts", dropped)
    return Side(conversations, examples)


def ranks_of(fit_q: params.FitQ, model: Any) -> tuple[int, ...]:
    """Of the least squares; none where the trained head stays. BadSpecError for one above the trunk's width."""
    if fit_q.last_layer == "Gradient":
        return ()
    width = model.config.hidden_size
    ranks = fit_q.ranks_of(width)
    if ranks[-1] > width:
        raise BadSpecError(
            f"fitQ.ranks has {ranks[-1]}, but the trunk of Q is only {width} wide",
            f"Use ranks of at most {width}, or leave fitQ.ranks out.",
        )
    return ranks


def logs_of(ctx: StageContext, split: Split, censoring: Censoring, renderer: Renderer) -> list[Log]:
    """What the last layer is fitted to: the training conversations, and what the iterations before collected. Turns of
    the same policy, after a rejection, count for V too."""
    digest = ctx.spec.inputs["policy"].digest
    logs = [Log(split.train.conversations, split.train.examples, censoring)]
    for everything in read_earlier(ctx, split.log):
        ended = finished(everything)
        if ended:
            logs.append(
                Log(
                    ended,
                    _LazyExamples(ctx, ended, renderer),
                    Censoring.of(everything),
                    lambda turn: turn.behaviour == "policy" and turn.policy_digest == digest,
                )
            )
    return logs


@dataclass(frozen=True, slots=True)
class _LazyExamples:
    """`Examples` of conversations, rendered when they are asked for: they are read once."""

    ctx: StageContext
    conversations: Sequence[Conversation]
    renderer: Renderer

    def __getitem__(self, part: slice) -> Sequence[Example]:
        return render(self.ctx, self.conversations[part], self.renderer).examples


def fit_layer(
    ctx: StageContext,
    fit_q: params.FitQ,
    procedure: Procedure,
    logs: Sequence[Log],
    features: tuple[Tensor, Tensor],
) -> LastLayer:
    """Puts the last layer by least squares into the model."""
    ridge, most_folds = fit_q.least_squares()
    folds = min(most_folds, len(procedure.split.train.conversations) // 2)
    settings = LeastSquaresSettings(ranks_of(fit_q, procedure.model), ridge, procedure.settings.discount)
    began = time.monotonic()
    layer = refit(procedure.model, logs, features, settings, folds)
    count, seconds = sum(len(log.conversations) for log in logs), time.monotonic() - began
    ctx.log.info("last layer by %d least squares on %d conversations in %.1f s", len(layer.q), count, seconds)
    return layer


def standard_error(procedure: Procedure, layer: LastLayer | None) -> float | None:
    """Root mean square over the held-out suggestions of Q's standard error; None where there is one fit only.

    How the fits differ, times what the trunk that they share adds.
    """
    if layer is None or len(layer.q) < 2:
        return None
    states, actions = turn_features(procedure.model, procedure.split.held.examples, procedure.settings.max_tokens)
    device = layer.q.device
    apart = float(layer.standard_error(states.to(device), actions.to(device)).square().mean().sqrt())
    return TRUNK_ERROR * apart
