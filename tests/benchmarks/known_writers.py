"""Logs of SR-funnel whose writers are known, so that all values are exact, and Q fitted to them as `fit-q` fits it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from funnels import draw
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.params import LAST_LAYER_FOLDS, LAST_LAYER_RIDGE, FitQ
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.funnel.tables import ABSTAIN, INTENTS, SENT, STAGES, Tables
from ippo_trainer.environments.funnel.text import SUGGESTIONS, SYSTEM_PROMPT, parse_customer
from ippo_trainer.environments.problem import Array, Policy
from ippo_trainer.models.load import build_tiny, new_q
from ippo_trainer.qfit.examples import make_examples
from ippo_trainer.qfit.least_squares import LeastSquaresSettings
from ippo_trainer.qfit.procedure import Procedure, Side, Split, language_head
from ippo_trainer.qfit.refit import Log, empty_features, fill_features, refit
from ippo_trainer.qfit.trainer import FitSettings
from ippo_trainer.sft.trainer import SupervisedFit, SupervisedSettings
from ippo_trainer.stages.logged import Separation, finished
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

DISCOUNT, MAX_TOKENS = 0.95, 4096
_BASE, _PROMPT_TOKENS = "tiny:d32-l1", 256
_LEAST = 0.05
"""Of a writer's probabilities: every intent is seen."""


@dataclass(frozen=True)
class Shop:
    """A funnel whose tables are drawn from a seed, with a short horizon, and its writers."""

    seed: int
    horizon: int = 4

    @cached_property
    def funnel(self) -> Funnel:
        """The environment, which is solved exactly."""
        funnel = Funnel(self.horizon)
        funnel.tables = Tables(**{name: _frozen(value) for name, value in draw(self.seed)[0].items()})
        funnel._dynamics = type(funnel._dynamics)(funnel.tables)
        return funnel

    def writers(self, count: int) -> list[Array]:
        """(stages, intents) of each: probabilities of what is suggested to a customer of that stage."""
        rng = np.random.default_rng([self.seed, 1])
        shares = rng.dirichlet(np.ones(len(INTENTS)), (count, len(STAGES)))
        return list(_LEAST + (1 - _LEAST * len(INTENTS)) * shares)

    def log(self, writers: Sequence[Array], count: int, stream: int, by_turn: bool = False) -> list[Conversation]:
        """Conversations that the writers held, who are called w0, w1, …

        Args:
            writers: each holds as many conversations as the others, by chance.
            count: of conversations.
            stream: of random numbers.
            by_turn: they take turns within a conversation, by chance.
        """
        rng = np.random.default_rng([self.seed, 2, stream])
        messages: list[str | None] = list(self.funnel.reset([int(each) for each in rng.integers(0, 2**62, count)]))
        held = [Conversation(f"{stream}-{number}") for number in range(count)]
        who, going = rng.integers(len(writers), size=count), list(range(count))
        while going:
            who = rng.integers(len(writers), size=count) if by_turn else who
            said = [self._say(rng, writers[who[number]], messages[number] or "") for number in going]
            steps = self.funnel.step(said)
            for number, text, step in zip(going, said, steps, strict=True):
                turn = Turn(messages[number] or "", text, step.reaction, step.sent_message, behaviour="log")
                turn.writer = f"w{who[number]}"
                held[number].turns.append(turn)
                held[number].outcome, messages[number] = step.outcome, step.customer_message
            going = [number for number in going if messages[number] is not None]
        return held

    def policy(self, table: Array) -> Policy:
        """The writer's probabilities in every information state."""
        return self.funnel.problem.by_stage(table)

    def _say(self, rng: np.random.Generator, table: Array, message: str) -> str | None:
        state = parse_customer(message)
        return worded(rng, int(rng.choice(len(INTENTS), p=table[state[0] if state else 0])))


def worded(rng: np.random.Generator, intent: int) -> str | None:
    """An intent in one of its wordings."""
    return None if intent == ABSTAIN else str(rng.choice(SUGGESTIONS[SENT[intent]]))


@dataclass(frozen=True)
class Fitted:
    """A Q model, and what it was fitted to."""

    model: Any
    renderer: Renderer
    train: list[Conversation]
    held: list[Conversation]
    censoring: Censoring


def fit(log: Sequence[Conversation], method: FitQ, seed: int) -> Fitted:
    """Q of a log by the settings of `fitQ`, from a tiny policy that imitates the log's suggestions.

    Args:
        log: with others' turns as `stages.logged.read_logged` marks them.
        method: settings; those that are left out are the defaults of a tiny base.
        seed: of everything.
    """
    settings = method.resolved()
    train, held = map(finished, Separation(float(settings.holdout), derive_seed(seed, "holdout")).sides(log))
    policy, renderer = _imitator(train, seed)
    sides = [Side(side, make_examples(side, renderer)[0]) for side in (train, held)]
    model = new_q(policy, derive_seed(seed, "head"))
    shape = FitSettings(
        epochs=settings.value("epochs"),
        patience=settings.patience,
        learning_rate=float(settings.value("learning_rate")),
        batch_size=settings.batch_size,
        lm_loss_weight=float(settings.lm_loss_weight),
        discount=DISCOUNT,
        trace_lambda=float(settings.trace_lambda),
        seed=seed,
        max_tokens=MAX_TOKENS,
    )
    procedure = Procedure(model, language_head(policy, model), shape, Split(*sides, log))
    procedure.run(lambda: None)
    if settings.last_layer != "Gradient":
        squares = LeastSquaresSettings(settings.ranks_of(model.config.hidden_size), LAST_LAYER_RIDGE, DISCOUNT)
        logs = [Log(train, sides[0].examples, procedure.weights.censoring)]
        features = empty_features(model.config.hidden_size, logs)
        list(fill_features(model, logs, features, MAX_TOKENS))
        refit(model, logs, features, squares, LAST_LAYER_FOLDS)
    return Fitted(model.requires_grad_(False), renderer, train, held, procedure.weights.censoring)


def _imitator(log: Sequence[Conversation], seed: int) -> tuple[Any, Renderer]:
    texts = [text for each in log for turn in each.turns for text in (turn.customer_message, turn.sent_message)]
    texts += [turn.suggestion for each in log for turn in each.turns if turn.suggestion is not None]
    tokenizer = build_tokenizer([SYSTEM_PROMPT, SYSTEM_PROMPT, *texts])
    renderer = Renderer(tokenizer, SYSTEM_PROMPT, _PROMPT_TOKENS)
    policy = build_tiny(_BASE, tokenizer, seed)
    rows = [row for each in log for row in training_rows(renderer, each).rows]
    SupervisedFit(policy, rows, SupervisedSettings(1, 0.008, 16, seed, tokenizer.pad_token_id)).run(lambda: None)
    return policy, renderer


def single_thread() -> None:
    """One process, one core."""
    torch.set_num_threads(1)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
