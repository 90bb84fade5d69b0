"""Scores learnt policies against an exact solution, from the visible text alone.

The performance-difference lemma (Kakade and Langford 2002) holds for any reference policy mu over information states:
V(pi) = V(mu) + E_pi[sum_t discount^t A_mu(s_t, a_t)], where s_t is the state that a history stands for. With the
optimum as mu the sum says at which turn and stage value is lost. With the intents that the other half of the
conversations show as mu (cross-fitting, so without bias) the sum is nearly zero, and the mean over rollouts has an
error several times smaller still.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments import problem as exact
from ippo_trainer.environments.problem import Array, DecisionProblem, Ints, Policy, Solution
from ippo_trainer.environments.protocol import ExactScore, ExactTurn, IntentPolicy, LadderRow
from ippo_trainer.environments.streams import pick

Number = TypeVar("Number", np.float64, np.int64)
UNPARSED = "UNPARSED"
PRIOR_COUNT = 5.0
"""How many turns' worth the coarser estimate of an intent distribution counts against the finer one."""


def check_turns(option: str, turns: object, most: int) -> None:
    """Raises BadSpecError for an option of an environment that is no number of turns, from 1 to `most`."""
    if isinstance(turns, bool) or not isinstance(turns, int) or not 1 <= turns <= most:
        raise BadSpecError(f"environment.options.{option} is {turns!r}", f"Give a whole number from 1 to {most}.")


def check_whole(conversation: Conversation, most: int) -> None:
    """Raises BadDataError for a conversation that is censored, or has not 1 to `most` turns."""
    turns = len(conversation.turns)
    if conversation.censored or not 1 <= turns <= most:
        raise BadDataError(
            f"conversation {conversation.id} {'is censored' if conversation.censored else f'has {turns} turns'}",
            f"Scored are whole ones of 1 to {most} turns.",
        )


@dataclass(frozen=True)
class Trace:
    """The turns of conversations as states and actions of a `DecisionProblem`; all arrays are (T,), in order.

    Args:
        conversation, turn: where the turn is.
        state: index into the level of that turn.
        action: index into the problem's actions, by its effect.
        label: index into the problem's actions by its words, or one more for what did not parse.
    """

    conversation: Ints
    turn: Ints
    state: Ints
    action: Ints
    label: Ints

    def select(self, keep: NDArray[np.bool_]) -> "Trace":
        """Some of the turns."""
        return Trace(self.conversation[keep], self.turn[keep], self.state[keep], self.action[keep], self.label[keep])


class ExactlySolved(ABC):
    """What an environment with a finite `DecisionProblem` can do: an `ExactScorer`."""

    max_turns: int
    intents: tuple[str, ...]
    """The last one is ABSTAIN."""
    wordings: Mapping[str, Sequence[str]]

    @abstractmethod
    def _build(self) -> DecisionProblem: ...

    @abstractmethod
    def _parse(self, suggestion: str) -> int | None:
        """The index of a suggestion's intent, None where it has none."""

    @abstractmethod
    def _states(self, conversation: Conversation) -> Iterator[int]:
        """By turn, the index of the state. Raises BadDataError where a text is not of this environment."""

    def label_of(self, suggestion: str | None) -> int:
        """The index of a suggestion's intent, ABSTAIN's for None; one more for what does not parse."""
        abstain = len(self.intents) - 1
        intent = abstain if suggestion is None else self._parse(suggestion)
        return abstain + 1 if intent is None else intent

    def intent_of(self, suggestion: str | None) -> str:
        """The name of a suggestion's intent, or UNPARSED."""
        return (*self.intents, UNPARSED)[self.label_of(suggestion)]

    def trace(self, conversations: Sequence[Conversation]) -> Trace:
        """Follows conversations through the problem. Raises BadDataError where one is not of this environment."""
        rows: list[tuple[int, int, int, int, int]] = []
        for index, conversation in enumerate(conversations):
            check_whole(conversation, self.max_turns)
            turns = zip(conversation.turns, self._states(conversation), strict=True)
            for turn, (record, state) in enumerate(turns):
                label = self.label_of(record.as_shown().suggestion)
                rows.append((index, turn, state, min(label, len(self.intents) - 1), label))
        return Trace(*np.asarray(rows, dtype=np.int64).reshape(-1, 5).T)

    def _wordings_of(self, intents: Iterable[int], draws: Iterable[float]) -> list[str | None]:
        """A wording of each intent, by a number in [0, 1); None to abstain."""
        texts = [self.wordings.get(self.intents[intent]) for intent in intents]
        return [None if each is None else pick(each, u) for each, u in zip(texts, draws, strict=True)]

    @cached_property
    def problem(self) -> DecisionProblem:
        """The decision problem behind the text."""
        return self._build()

    @cached_property
    def _optima(self) -> dict[float, Solution]:
        return {}

    def optimum(self, discount: float) -> Solution:
        """Q* and V* by level."""
        if discount not in self._optima:
            self._optima[discount] = exact.optimum(self.problem, discount)
        return self._optima[discount]

    def ladder(self, discount: float) -> list[LadderRow]:
        """Reference policies; see `problem.ladder`."""
        return exact.ladder(self.problem, discount)

    def score(
        self, conversations: Sequence[Conversation], discount: float, probabilities: Array | None = None
    ) -> ExactScore:
        """The performance-difference estimate from on-policy conversations.

        Args:
            conversations: at least two, none of them censored.
            discount: per turn.
            probabilities: (T, A) the policy's own distribution over intents at each turn of each conversation, where
                the caller has it: less noise than the intents that were drawn.
        """
        if len(conversations) < 2:
            raise BadDataError(f"{len(conversations)} conversations cannot be scored", "Give at least two.")
        trace = self.trace(conversations)
        weights = np.eye(len(self.problem.actions))[trace.action] if probabilities is None else probabilities
        if weights.shape != (len(trace.turn), len(self.problem.actions)):
            raise ValueError(f"probabilities of shape {weights.shape} for {len(trace.turn)} turns")
        count = len(conversations)
        value, error = self._estimate(trace, weights, discount, count)
        success, success_error = self._estimate(trace, weights, 1.0, count)
        best = self.optimum(discount)
        losses = -_advantages(best, trace, weights, discount)
        stage = _gather([level.stage for level in self.problem.levels], trace)
        by_turn = np.bincount(trace.turn, losses, minlength=len(self.problem.levels)) / count
        by_stage = np.bincount(stage, losses, minlength=len(self.problem.stages)) / count
        return ExactScore(
            value=value,
            standard_error=error,
            success=success,
            success_error=success_error,
            optimum=best.value,
            loss_by_turn=by_turn.tolist(),
            loss_by_stage=dict(zip(self.problem.stages, by_stage.tolist(), strict=True)),
            intent_mix=self._intent_mix(trace, stage),
        )

    def _estimate(self, trace: Trace, weights: Array, discount: float, count: int) -> tuple[float, float]:
        """The performance-difference estimate and its standard error; each half's reference is the other's intents."""
        terms = np.empty(count)
        for half in (0, 1):
            mine = trace.conversation % 2 == half
            reference = self.shown_intents(trace.select(~mine), weights[~mine])
            solution = exact.evaluate(self.problem, reference, discount)
            part = trace.select(mine)
            sums = np.bincount(part.conversation, _advantages(solution, part, weights[mine], discount), minlength=count)
            terms[half::2] = solution.value + sums[half::2]
        return float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(count))

    def exact_q(
        self, conversations: Sequence[Conversation], discount: float, policy: IntentPolicy | None = None
    ) -> list[list[ExactTurn]]:
        """Exact values at every turn, of `policy` or else of the intents the conversations show."""
        trace = self.trace(conversations)
        tables = exact.tabulate(self.problem, policy) if policy else self.shown_intents(trace)
        solution = exact.evaluate(self.problem, tables, discount)
        turns: list[list[ExactTurn]] = [[] for _ in conversations]
        names = (*self.problem.actions, UNPARSED)
        for i, turn, state, label in zip(trace.conversation, trace.turn, trace.state, trace.label, strict=True):
            level = self.problem.levels[turn]
            turns[i].append(
                ExactTurn(
                    state=(float(turn), float(level.stage[state]), *map(float, level.features[state])),
                    intent=names[label],
                    q_policy=dict(zip(self.problem.actions, solution.q[turn][state].tolist(), strict=True)),
                    v_policy=float(solution.v[turn][state]),
                )
            )
        return turns

    def shown_intents(self, trace: Trace, weights: Array | None = None) -> Policy:
        """The distribution over intents in every state, estimated from conversations.

        Where a state was met seldom, the estimate leans on states of its group at that turn, then at any turn.
        `weights` (T, A) are distributions to use in place of the intents that were drawn.
        """
        count = len(self.problem.actions)
        hot = np.eye(count)[trace.action] if weights is None else weights
        groups = [level.group for level in self.problem.levels]
        group = _gather(groups, trace)
        prior = _shrunk(hot.sum(0, keepdims=True), np.full((1, count), 1 / count))
        coarse = _shrunk(_sum_by(group, hot, max(int(g.max()) for g in groups) + 1), prior)
        policy = []
        for turn, level in enumerate(self.problem.levels):
            here = trace.turn == turn
            middle = _shrunk(_sum_by(group[here], hot[here], len(coarse)), coarse)
            policy.append(_shrunk(_sum_by(trace.state[here], hot[here], len(level.stage)), middle[level.group]))
        return policy

    def _intent_mix(self, trace: Trace, stage: Ints) -> dict[str, dict[str, float]]:
        names = (*self.problem.actions, UNPARSED)
        mix = {}
        for index, name in enumerate(self.problem.stages):
            counts = np.bincount(trace.label[stage == index], minlength=len(names))
            if counts.sum():
                mix[name] = dict(zip(names, (counts / counts.sum()).tolist(), strict=True))
        return mix


def _gather(by_level: Sequence[NDArray[Number]], trace: Trace) -> NDArray[Number]:
    """(T, …) the entry of each turn's state."""
    offsets = np.cumsum([0, *(len(table) for table in by_level)])
    table: NDArray[Number] = np.concatenate(by_level)[offsets[trace.turn] + trace.state]
    return table


def _advantages(solution: Solution, trace: Trace, weights: Array, discount: float) -> Array:
    """(T,) discount^t * (E_weights Q - V)."""
    q, v = _gather(solution.q, trace), _gather(solution.v, trace)
    gained: Array = np.power(discount, trace.turn, dtype=np.float64) * ((weights * q).sum(-1) - v)
    return gained


def _sum_by(index: Ints, rows: Array, count: int) -> Array:
    total = np.zeros((count, rows.shape[-1]))
    np.add.at(total, index, rows)
    return total


def _shrunk(counts: Array, prior: Array) -> Array:
    estimate: Array = (counts + PRIOR_COUNT * prior) / (counts.sum(-1, keepdims=True) + PRIOR_COUNT)
    return estimate
