"""What an agent is given besides the dialogue: a conversation's context, and what tools returned. Both are texts.

A JSON value becomes one text, the same for equal values, whoever wrote them and in whatever order: YAML with sorted
keys, where a text that could read like anything else is quoted as in JSON. So a customer's name is never another field.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ippo_trainer.contract.errors import BadDataError

if TYPE_CHECKING:
    from ippo_trainer.data.schema import Conversation

LONGEST = 1 << 18
"""Bytes of a context, and of what tools returned before one suggestion."""
CONTEXT, TOOLS = "context", "tools"
KINDS = (CONTEXT, TOOLS)
"""What a policy may have learnt to read."""
_DEEPEST = 16
_WHOLE = 2**53
"""Floats below it that are whole are whole numbers, which other tools write without a point."""
_PLAIN = re.compile(r"[^\W\d_](?:[\w .,()/%+'-]*[\w.)%'])?")
_READ_OTHERWISE = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def context_of(where: str, value: Any) -> str:
    """A conversation's context as it stands in prompts; empty for null and for nothing.

    Args:
        where: the field, for errors.
        value: a text or a JSON object or list.

    Raises:
        BadDataError: another type, no valid Unicode, NaN, too deep or too long.
    """
    return _checked(where, "" if value is None else _text(where, value))


def tool_messages_of(where: str, values: Any) -> tuple[str, ...]:
    """What tools returned before one suggestion, each a text or a JSON object or list; what is empty is left out.

    Raises:
        BadDataError: no list, or as `context_of`.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise BadDataError(f"{where} is {_type(values)}", "Give a list of texts or JSON objects.")
    texts = [context_of(f"{where}[{number}]", value) for number, value in enumerate(values)]
    return check_tool_messages(where, [text for text in texts if text])


def check_tool_messages(where: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts of the tools before one suggestion; BadDataError where they are too long together."""
    _checked(where, "\n".join(texts))
    return tuple(texts)


def beside(context: str, system_prompt: str) -> str:
    """The context without the system prompt that it begins with: exports and clients repeat it."""
    if system_prompt and (context == system_prompt or context.startswith(f"{system_prompt}\n\n")):
        return context[len(system_prompt) :].strip()
    return context


def kinds_in(conversations: Iterable["Conversation"], system_prompt: str = "") -> frozenset[str]:
    """Of `KINDS`, those that some conversation has; a context that is the system prompt is none."""
    kinds: set[str] = set()
    for conversation in conversations:
        kinds |= {CONTEXT} if beside(conversation.context, system_prompt) else set()
        kinds |= {TOOLS} if any(turn.tool_messages for turn in conversation.turns) else set()
    return frozenset(kinds)


def _text(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, dict | list | tuple):
        raise BadDataError(f"{where} is {_type(value)}", "Give a text, a JSON object or a JSON list.")
    try:
        plain = json.dumps(value, allow_nan=False)
        # Through JSON and back, so that keys are texts and nothing is in it twice.
        return "\n".join(_lines(where, json.loads(plain), 0)) if value else ""
    except (TypeError, ValueError) as error:
        raise BadDataError(f"{where} is no JSON: {error!s:.100}", "Give texts, numbers, true, false, null.") from None
    except RecursionError:
        raise _too_deep(where) from None


def _lines(where: str, value: Any, depth: int) -> Iterator[str]:
    if not value or not isinstance(value, dict | list):
        yield _scalar(value)
        return
    if depth == _DEEPEST:
        raise _too_deep(where)
    if isinstance(value, list):
        for item in value:
            for number, line in enumerate(_lines(where, item, depth + 1)):
                yield f"{'  ' if number else '- '}{line}"
        return
    for key in sorted(value):
        item = value[key]
        if item and isinstance(item, dict | list):
            yield f"{_scalar(key)}:"
            yield from (f"  {line}" for line in _lines(where, item, depth + 1))
        else:
            yield f"{_scalar(key)}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        value = int(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _READ_OTHERWISE:
        return value
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", json.dumps(value, ensure_ascii=False))


def _checked(where: str, text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadDataError(f"{where} holds half a surrogate pair", "Write valid Unicode.") from None
    if size > LONGEST:
        raise BadDataError(
            f"{where} has {size:,} bytes, more than {LONGEST:,}", "Give what the agent needs, not all that is known."
        )
    return text


def _type(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else f"of type {type(value).__name__}"


def _too_deep(where: str) -> BadDataError:
    return BadDataError(f"{where} is nested more than {_DEEPEST} deep", "Give a flatter value.")
