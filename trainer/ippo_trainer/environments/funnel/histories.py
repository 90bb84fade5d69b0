"""From the text of SR-funnel to its information states."""

from collections.abc import Sequence

import numpy as np

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.funnel.exact import continuation
from ippo_trainer.environments.funnel.tables import ABSTAIN, SENT
from ippo_trainer.environments.funnel.text import parse_customer, parse_intent
from ippo_trainer.environments.problem import DecisionProblem
from ippo_trainer.environments.replies import label_of
from ippo_trainer.environments.scoring import Trace, check_whole


def trace(problem: DecisionProblem, conversations: Sequence[Conversation]) -> Trace:
    """Follows conversations from state to state by what is visible; BadDataError names conversation and turn."""
    rows: list[tuple[int, int, int, int, int]] = []
    for index, conversation in enumerate(conversations):
        check_whole(conversation, len(problem.levels))
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
    """Index into INTENTS of a suggestion, or one more."""
    return label_of(suggestion, parse_intent, ABSTAIN)


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
