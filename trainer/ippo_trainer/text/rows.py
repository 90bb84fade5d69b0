"""Whole conversations as training rows: every suggestion after its own prompt, shared beginnings written once."""

from dataclasses import dataclass

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.text.render import Renderer


@dataclass(slots=True)
class Row:
    """A token sequence and which of its tokens belong to suggestions (stop token included)."""

    conversation_id: str
    ids: list[int]
    response_mask: list[bool]


@dataclass(slots=True)
class Rows:
    """The rows of one conversation."""

    rows: list[Row]
    dropped_turns: int
    """The most turns that any of its prompts lost."""
    longest_response: int
    """Tokens of its longest suggestion, stop token included."""


def training_rows(renderer: Renderer, conversation: Conversation) -> Rows:
    """The prompts and suggestions of a conversation, in one row as long as each prompt extends what came before.

    A prompt that lost its oldest turns, or a chat template that rewrites the history, begins a new row. Every
    suggestion is masked exactly once, after exactly the prompt that the policy will see. One that was never displayed
    is left out: nobody vouched for it.

    Raises:
        BadDataError: a message does not fit into a prompt; names the conversation and the turn.
    """
    result = Rows([], 0, 0)
    for index, turn in enumerate(conversation.turns):
        if not turn.displayed:
            continue
        try:
            prompt = renderer.prompt(conversation.turns[:index], turn.customer_message)
            response = renderer.response(turn.suggestion)
        except BadDataError as error:
            where = f"conversation {conversation.id!r}, turn {index}"
            raise BadDataError(f"{where}: {error.message}", error.remedy) from error
        last = result.rows[-1] if result.rows else None
        if last is None or prompt.ids[: len(last.ids)] != last.ids:
            last = Row(conversation.id, [], [])
            result.rows.append(last)
        last.response_mask += [False] * (len(prompt.ids) - len(last.ids)) + [True] * len(response)
        last.ids = prompt.ids + response
        result.dropped_turns = max(result.dropped_turns, prompt.dropped_turns)
        result.longest_response = max(result.longest_response, len(response))
    return result
