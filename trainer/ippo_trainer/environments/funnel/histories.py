"""From the text of SR-funnel to its information states."""

from collections.abc import Iterator
from itertools import pairwise

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.funnel.exact import continuation
from ippo_trainer.environments.funnel.tables import SENT
from ippo_trainer.environments.funnel.text import parse_customer, parse_intent
from ippo_trainer.environments.problem import DecisionProblem


def states(problem: DecisionProblem, conversation: Conversation) -> Iterator[int]:
    """Follows a conversation from state to state by what is visible; BadDataError names conversation and turn."""
    state = 0
    yield state
    for turn, (record, following) in enumerate(pairwise(conversation.turns)):
        answer = following.customer_message
        state = _next_state(problem, turn, state, record.sent_message, answer, conversation.id)
        yield state


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
