"""Between the text of SR-funnel and its information states: reading conversations, and writing one for each state."""

from collections.abc import Sequence

import numpy as np

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.funnel.exact import continuation
from ippo_trainer.environments.funnel.tables import ABSTAIN, INTENTS, SENT, Tables
from ippo_trainer.environments.funnel.text import (
    GREETINGS,
    SUGGESTIONS,
    WORDINGS,
    parse_customer,
    parse_intent,
)
from ippo_trainer.environments.problem import Array, DecisionProblem, Ints, reach
from ippo_trainer.environments.protocol import History
from ippo_trainer.environments.scoring import Trace

UNPARSED_LABEL = len(INTENTS)


def trace(problem: DecisionProblem, conversations: Sequence[Conversation]) -> Trace:
    """Follows conversations from state to state by what is visible; BadDataError names conversation and turn."""
    rows: list[tuple[int, int, int, int, int]] = []
    for index, conversation in enumerate(conversations):
        if not conversation.turns or len(conversation.turns) > len(problem.levels) or conversation.censored:
            how = "is censored" if conversation.censored else f"has {len(conversation.turns)} turns"
            raise BadDataError(
                f"conversation {conversation.id} {how}", f"Scored are whole ones of 1 to {len(problem.levels)} turns."
            )
        state = 0
        for turn, record in enumerate(conversation.turns):
            label = suggestion_label(record.as_shown().suggestion)
            rows.append((index, turn, state, min(label, ABSTAIN), label))
            if turn + 1 < len(conversation.turns):
                answer = conversation.turns[turn + 1].customer_message
                state = _next_state(problem, turn, state, record.sent_message, answer, conversation.id)
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 5).T
    return Trace(*columns)


def suggestion_label(suggestion: str | None) -> int:
    """Index into INTENTS of a suggestion, or UNPARSED_LABEL."""
    if suggestion is None:
        return ABSTAIN
    intent = parse_intent(suggestion)
    return UNPARSED_LABEL if intent is None else intent


def _next_state(problem: DecisionProblem, turn: int, state: int, sent_message: str, answer: str, identity: str) -> int:
    sent, answer_state = parse_intent(sent_message), parse_customer(answer)
    where = f"conversation {identity}, turn {turn}"
    if sent is None:
        raise BadDataError(f"{where}: the sent message {sent_message!r:.80} is not of this environment")
    if answer_state is None:
        raise BadDataError(f"{where}: the customer's answer {answer!r:.80} is not of this environment")
    level = problem.levels[turn]
    stage, signal = answer_state
    moved = stage != level.stage[state]
    branch = continuation(moved, signal)
    if branch < level.probability.shape[-1] and level.probability[state, sent, branch] > 0:
        child = int(level.child[state, sent, branch])
        if problem.levels[turn + 1].stage[child] == stage:
            return child
    raise BadDataError(
        f"{where}: the customer's answer {answer!r:.80} is impossible after {SENT[sent]}",
        "Were the conversations made with other tables?",
    )


def representatives(problem: DecisionProblem, tables: Tables, seed: int) -> list[list[History]]:
    """By level, one typical history for every information state.

    Its ways through the tree, reactions and wordings are drawn as conversations with the base policy (a hundredth of
    it uniform) would have them, given that they lead to the state.
    """
    rng = np.random.default_rng(seed)
    mixed = 0.99 * problem.base + 0.01 / len(INTENTS)
    reached = reach(problem, problem.by_stage(mixed))
    histories = [[History([], _any(GREETINGS, rng))]]
    for turn, (level, following) in enumerate(zip(problem.levels, problem.levels[1:], strict=False)):
        effects = np.einsum("na,nam->nm", mixed[level.stage], problem.response[level.stage])
        flow = reached[turn][:, None, None] * effects[:, :, None] * level.probability
        parent, sent, branch = _draw_ways(flow, level.child, rng)
        next_histories: list[History] = []
        for child in range(len(following.stage)):
            before = histories[turn][parent[child]]
            turns = _write_turn(int(level.stage[parent[child]]), int(sent[child]), before, tables, mixed, rng)
            stage = int(following.stage[child])
            moved = stage != level.stage[parent[child]]
            informs = INTENTS[sent[child]] == "ASK" and branch[child] > 0
            signal = int(branch[child]) - 1 if informs else None
            assert informs or int(moved) == branch[child]
            next_histories.append(History(turns, _any(WORDINGS[stage, signal], rng)))
        histories.append(next_histories)
    return histories


def _draw_ways(flow: Array, child: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """For each state of the next level one (state, sent, continuation) that leads there, drawn by `flow`."""
    ways = np.argwhere(flow > 0)
    leads_to, weight = child[flow > 0], flow[flow > 0]
    keys = np.log(weight) + rng.gumbel(size=len(weight))  # the largest of these is such a draw
    order = np.lexsort((-keys, leads_to))
    _, first = np.unique(leads_to[order], return_index=True)
    parent, sent, branch = ways[order[first]].T
    return parent, sent, branch


def _write_turn(
    stage: int, sent: int, before: History, tables: Tables, policy: Array, rng: np.random.Generator
) -> list[Turn]:
    """The turns before and one more, in which the business sent this intent."""
    accept = np.append(np.asarray(tables.accept)[:, stage], 0.0)
    edited = np.where(np.asarray([*tables.edited_to, ""]) == SENT[sent], (1 - accept) * tables.edited_share, 0.0)
    rejected = (1 - accept) * (1 - tables.edited_share * (np.arange(len(INTENTS)) != ABSTAIN)) * tables.own[sent]
    accepted = np.where(np.arange(len(INTENTS)) == sent, accept, 0.0)
    joint = policy[stage] * np.stack([accepted, edited, rejected])
    reaction, intent = np.unravel_index(rng.choice(joint.size, p=joint.ravel() / joint.sum()), joint.shape)
    suggestion = None if intent == ABSTAIN else _any(SUGGESTIONS[INTENTS[intent]], rng)
    message = suggestion if reaction == 0 and suggestion is not None else _any(SUGGESTIONS[SENT[sent]], rng)
    return [*before.turns, Turn(before.customer_message, suggestion, REACTIONS[reaction], message)]


def _any(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
