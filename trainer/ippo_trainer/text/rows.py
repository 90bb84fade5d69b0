"""Whole conversations as training rows: every suggestion after its own prompt, shared beginnings written once."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.params import OnTooLong
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.text.render import Prompt, PromptTooLongError, Renderer


@dataclass(slots=True)
class Row:
    """A token sequence and which of its tokens belong to suggestions (stop token included)."""

    conversation_id: str
    ids: list[int]
    response_mask: list[bool]


@dataclass(slots=True)
class Rows:
    """The rows of one conversation."""

    rows: list[Row] = field(default_factory=list)
    dropped_turns: int = 0
    """The most turns that any of its prompts lost."""
    longest_response: int = 0
    """Tokens of its longest suggestion, stop token included."""
    too_long: dict[int, str] = field(default_factory=dict)
    """Turn -> why it does not fit; it was left out or cut."""


def check_contexts(renderer: Renderer, conversations: Iterable[Conversation]) -> None:
    """Raises BadDataError, with counts, where contexts fit into no prompt: a history can lose turns, a context nothing.

    Left out, such conversations would be missing from what is learnt, and be refused when the policy is served.
    """
    least: dict[str, int] = {}
    tokens: list[int] = []
    first = ""
    for conversation in conversations:
        context = conversation.context
        if context:
            least[context] = least[context] if context in least else renderer.least(context)
            tokens.append(least[context])
            first = first or (conversation.id if tokens[-1] > renderer.max_prompt_tokens else "")
    over = [count for count in tokens if count > renderer.max_prompt_tokens]
    if over:
        raise BadDataError(
            f"the contexts of {len(over)} of {len(tokens)} conversations that have one fit into no prompt (first: "
            f"{first!r:.80}): the longest makes at least {max(over)} tokens by itself, more than "
            f"policy.maxPromptTokens = {renderer.max_prompt_tokens}",
            "Raise policy.maxPromptTokens, shorten these contexts, or leave the conversations out.",
        )


def training_rows(
    renderer: Renderer, conversation: Conversation, on_too_long: OnTooLong = "Skip", positions: int | None = None
) -> Rows:
    """The prompts and suggestions of a conversation, in one row as long as each prompt extends what came before.

    A prompt that lost its oldest turns, or a chat template that rewrites the history, begins a new row. Every
    suggestion is masked exactly once, after exactly the prompt that the policy will see. One that was never displayed
    is left out: nobody vouched for it.

    Args:
        on_too_long: a turn whose message fits into no prompt, or whose suggestion does not fit behind its prompt, is
            not learnt, while the others are; or its texts are cut until they fit.
        positions: of the model; a prompt and its suggestion have at most so many tokens together.

    Raises:
        BadDataError: a message cannot be rendered; names the conversation and the turn.
    """
    result, turns = Rows(), list(conversation.turns)
    for index in range(len(turns)):
        if not turns[index].displayed:
            continue
        try:
            prompt = _prompt(renderer, turns, index, conversation.context, on_too_long, result)
            response = renderer.response(turns[index].suggestion)
        except BadDataError as error:
            where = f"conversation {conversation.id!r}, turn {index}"
            raise BadDataError(f"{where}: {error.message}", error.remedy) from error
        room = len(response) if prompt is None or positions is None else max(0, positions - len(prompt.ids))
        if len(response) > room:
            result.too_long[index] = f"its suggestion has {len(response)} tokens where {room} fit behind the prompt"
            response = response[:room] if on_too_long == "Truncate" else []
        if prompt is not None and response:
            _append(result, conversation.id, prompt, response)
    return result


def _append(result: Rows, conversation_id: str, prompt: Prompt, response: list[int]) -> None:
    last = result.rows[-1] if result.rows else None
    if last is None or prompt.ids[: len(last.ids)] != last.ids:
        last = Row(conversation_id, [], [])
        result.rows.append(last)
    last.response_mask += [False] * (len(prompt.ids) - len(last.ids)) + [True] * len(response)
    last.ids = prompt.ids + response
    result.dropped_turns = max(result.dropped_turns, prompt.dropped_turns)
    result.longest_response = max(result.longest_response, len(response))


def _prompt(
    renderer: Renderer, turns: list[Turn], index: int, context: str, on_too_long: OnTooLong, result: Rows
) -> Prompt | None:
    """The prompt of a turn, or None where it is left out. Shortens the turn's message where that is wanted."""
    turn = turns[index]
    message, surroundings = turn.customer_message, (turn.tool_messages, context)
    try:
        return renderer.prompt(turns[:index], message, *surroundings)
    except PromptTooLongError as error:
        result.too_long.setdefault(index, error.message)
    shorter = renderer.cut(message, *surroundings)
    if on_too_long == "Skip" or shorter == message:
        return None
    turns[index] = replace(turn, customer_message=shorter)
    return renderer.prompt(turns[:index], shorter, *surroundings)
