"""Messages of a chat log, of ours and of others' exports, and the turns that they make."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ippo_trainer.contract.digests import DIGEST
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.moments import lacks_zone, seconds_of
from ippo_trainer.data.context import check_tool_messages, context_of
from ippo_trainer.data.reactions import REACTIONS, Reaction
from ippo_trainer.data.schema import PEOPLE, State, Turn

CUSTOMER_ROLES = ("user", "customer")
BUSINESS_ROLES = ("assistant", "agent", "business")
_ALLOWED = (*CUSTOMER_ROLES, *BUSINESS_ROLES, "system", "tool")
_OTHER_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
"""What ShareGPT and older or newer exports of OpenAI call them."""
EXPLORED = "explored"
"""Field of a message that says whether the suggestion was drawn to explore."""
TIMES = ("time", "timestamp", "created_at", "create_time")
"""Fields of a message or conversation that say when, the first that is there."""
ZONES = "Write times with a zone, such as Z or +02:00."
_UNLIKELY, _ROUNDING = -1e30, 1e-3
"""The least log-probability, since files have 32 bits of it, and how far above 0 one may be rounded."""
GREETINGS = "greetings before the first customer message"
UNANSWERED = "customer messages that nobody answered"
UNREAD_TIMES = "times that are neither ISO 8601 nor seconds since 1970"
_FIELDS_SHOWN = 6
LOGPROBS = "natural logarithms of probabilities, numbers of at most 0"


def read_state(messages: Mapping[int, Any]) -> State:
    """A conversation that waits for a suggestion, read as a log's messages are.

    Args:
        messages: in order, by the numbers that errors name.

    Raises:
        BadDataError: as `logs.read_log` does of messages; or the last message that is no tool's is not the customer's.
    """
    checked = [check(f"messages[{i}]", message) for i, message in messages.items()]
    exchanges = _exchanges(checked, Counter())
    if not exchanges or exchanges[-1].business:
        raise BadDataError(
            "the last message is not the customer's, nor what a tool returned after it",
            "End with the message to answer (role user).",
        )
    *past, newest = exchanges
    history = [_turn(exchange, PEOPLE) for exchange in past]
    return State(history, _join(newest.customer), newest.tool_messages(), context_in(checked, Counter()))


def check(where: str, value: Any, omissions: Counter[str] | None = None) -> dict[str, Any]:
    """One checked message as {"side", "content", "suggestion", "reaction", "writer", "time"}.

    Args:
        where: the message, for errors.
        value: as the log has it; ShareGPT's `from` and `value` stand for `role` and `content`.
        omissions: counts what is left out of it.

    A system message has its content as a context; so has a tool's, but for a call without a text.
    """
    omissions = Counter() if omissions is None else omissions
    if not isinstance(value, dict):
        is_text_alone = "a text and no message" if isinstance(value, str) else show(value)
        raise BadDataError(f"{where} is {is_text_alone}", 'Write {"role", "content"}.')
    names = ("from", "value") if "from" in value and "role" not in value else ("role", "content")
    role, content = (value.get(name) for name in names)
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if not isinstance(role, str) or role not in _ALLOWED:
        others = fields_of(value) if role is None else ""
        raise BadDataError(f"{where}.{names[0]} is {show(role)}{others}", f"Use one of {', '.join(_ALLOWED)}.")
    where_content = f"{where}.{names[1]}"
    in_parts = isinstance(content, list) and bool(content)
    if isinstance(content, list):
        content = _text_of(where_content, content, omissions)
    if role in ("system", "tool"):
        return {"side": role, "content": context_of(where_content, content)}
    if role in BUSINESS_ROLES and (value.get("tool_calls") or value.get("function_call")):
        omissions["calls of tools"] += 1
        if not content:
            return {"side": "tool", "content": ""}
    if not isinstance(content, str):
        others = fields_of(value) if names[1] not in value else ""
        raise BadDataError(f"{where_content} is {show_kind(content)}{others}", "It must be a text.")
    if not content.strip() and not (role in BUSINESS_ROLES and _sends_nothing(value)):
        if in_parts:
            remedy = "Say in words what an image shows, or leave the conversation out."
            raise BadDataError(f"{where_content} has parts, and no text among them", remedy)
        raise BadDataError(f"{where_content} is empty", "Leave the message out of the log.")
    if not is_text(content):
        raise BadDataError(f"{where_content} holds half a surrogate pair", "Write valid Unicode.")
    message = {"content": content, "time": time_of(value)}
    if message["time"] is None and any(value.get(name) is not None for name in TIMES):
        omissions[UNREAD_TIMES] += 1
    if role in CUSTOMER_ROLES:
        return message | {"side": "customer"}
    suggestion, reaction = _action(where, value, content)
    business = {"side": "business", "suggestion": suggestion, "reaction": reaction, "writer": writer_of(where, value)}
    return message | business | {"sampled": _sampled(where, value)}


def _sends_nothing(value: Mapping[str, Any]) -> bool:
    """Whether a message says that the business sent nothing: its suggestion was rejected or empty, or it had none."""
    suggestion = value.get("suggestion", "?")
    return value.get("reaction") == "rejected" or not str("" if suggestion is None else suggestion).strip()


def _sampled(where: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy's own log adds: who suggested by digest, whether the business saw it and whether it explored, the
    tokens and their log-probabilities."""
    digest, displayed, explored = value.get("policy_digest"), value.get("displayed"), value.get(EXPLORED)
    ids, logprobs = value.get("token_ids"), value.get("sampler_logprobs")
    if digest is not None and not (isinstance(digest, str) and re.fullmatch(DIGEST, digest)):
        raise BadDataError(f"{where}.policy_digest is {show(digest)}", "Write sha256: and 64 hex digits.")
    if displayed is not None and not isinstance(displayed, bool):
        raise BadDataError(f"{where}.displayed is {show(displayed)}", "Use true or false.")
    if explored is not None and not (isinstance(explored, bool) and digest):
        raise BadDataError(f"{where}.{EXPLORED} is {show(explored)}", "Use true or false, with policy_digest.")
    if ids is not None and not (isinstance(ids, list) and all(type(each) is int and 0 <= each < 2**31 for each in ids)):
        raise BadDataError(f"{where}.token_ids is {show(ids)}", "Write a list of whole numbers.")
    if logprobs is not None and not (
        isinstance(logprobs, list)
        and len(logprobs) == len(ids or ())
        and all(type(each) in (int, float) and is_logprob(each) for each in logprobs)
    ):
        raise BadDataError(
            f"{where}.sampler_logprobs is {show(logprobs)}",
            f"Write one number for each of token_ids: {LOGPROBS}.",
        )
    return {
        "policy_digest": digest or "",
        "displayed": displayed is not False,
        "behaviour": "explore" if explored else "policy" if digest else "log",
        "token_ids": ids,
        "sampler_logprobs": logprobs,
    }


def is_logprob(value: float) -> bool:
    """Whether it may be the log-probability of a token that was drawn."""
    return _UNLIKELY <= value <= _ROUNDING


def _text_of(where: str, parts: list[Any], omissions: Counter[str]) -> str:
    """The texts among the parts of a message, as OpenAI's exports have them."""
    texts = []
    for number, part in enumerate(parts):
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind in ("text", "input_text", "output_text"):
            if not isinstance(text, str):
                raise BadDataError(f"{where}[{number}].text is {show(text)}", "It must be a text.")
            texts.append(text)
        else:
            omissions["parts of messages that are no text"] += 1
    return "".join(texts)


def writer_of(where: str, value: Mapping[str, Any]) -> str | None:
    """Who wrote, by the field of that name; None where it says nothing."""
    writer = value.get("writer")
    if writer is not None and (not isinstance(writer, str) or not writer.strip() or not is_text(writer)):
        raise BadDataError(f"{where + '.' if where else ''}writer is {show(writer)}", "Use a text, or leave it out.")
    return writer


def time_of(value: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 UTC: of a number of seconds or milliseconds, or of ISO 8601, in UTC where it has no zone.

    None where there is none, or where it cannot be read: other tools have fields of these names, too.
    """
    return seconds_of(_time_in(value))


def lacks_zone_in(value: Mapping[str, Any]) -> bool:
    """Whether `time_of` takes its time to be in UTC since it does not say where it was."""
    return lacks_zone(_time_in(value))


def _time_in(value: Mapping[str, Any]) -> Any:
    return next((value[name] for name in TIMES if value.get(name) is not None), None)


def _action(where: str, value: dict[str, Any], content: str) -> tuple[str | None, Reaction]:
    """What was suggested and what became of it: by default the message itself, accepted."""
    suggestion = value.get("suggestion", content)
    if suggestion is not None and not (isinstance(suggestion, str) and is_text(suggestion)):
        raise BadDataError(f"{where}.suggestion is {show(suggestion)}", "Use a text, or null if there was none.")
    default = "rejected" if suggestion is None else "accepted" if suggestion == content else None
    # Tables write null where there is nothing.
    reaction: Any = default if value.get("reaction") is None else value["reaction"]
    if reaction is None or reaction not in REACTIONS:
        problem = "is missing, and the suggestion is not what was sent" if reaction is None else f"is {show(reaction)}"
        raise BadDataError(f"{where}.reaction {problem}", f"Use one of {', '.join(REACTIONS)}.")
    if suggestion is None and reaction != "rejected":
        raise BadDataError(
            f"{where}.reaction is {show(reaction)} without a suggestion", "Use rejected or leave it out."
        )
    return suggestion, reaction


def context_in(messages: Iterable[dict[str, Any]], omissions: Counter[str]) -> str:
    """The context that checked messages begin with: system messages before the first one of customer or business."""
    texts, dialogue = [], False
    for message in messages:
        if message["side"] != "system":
            dialogue = dialogue or message["side"] != "tool"
        elif dialogue:
            omissions["system messages in the midst of a conversation"] += 1
        elif message["content"]:
            texts.append(message["content"])
    return "\n\n".join(texts)


@dataclass(slots=True)
class _Exchange:
    """What a customer said, what tools returned until the reply, and the reply, if there is one."""

    customer: list[dict[str, Any]] = field(default_factory=list)
    business: list[dict[str, Any]] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)

    def tool_messages(self) -> tuple[str, ...]:
        return check_tool_messages("what tools returned before one reply", self.tools)


def turns_of(messages: Sequence[dict[str, Any]], omissions: Counter[str], writer: str = PEOPLE) -> list[Turn]:
    """Alternating turns: consecutive messages of one side are joined by line breaks.

    Args:
        messages: checked ones.
        omissions: counts what is left out.
        writer: of messages that name none.

    Raises:
        BadDataError: tools returned too much before one reply.
    """
    exchanges = _exchanges(messages, omissions)
    if exchanges and not exchanges[-1].business:
        omissions[UNANSWERED] += 1
        exchanges.pop()
    return [_turn(exchange, writer) for exchange in exchanges]


def _exchanges(messages: Sequence[dict[str, Any]], omissions: Counter[str]) -> list[_Exchange]:
    """What tools returned before a customer's message or before a reply belongs to that exchange."""
    exchanges: list[_Exchange] = []
    waiting: list[str] = []
    greeted = False
    for message in messages:
        side = message["side"]
        if side == "tool":
            waiting += [message["content"]] if message["content"] else []
        elif side == "customer":
            if not exchanges or exchanges[-1].business:
                exchanges.append(_Exchange())
            exchanges[-1].customer.append(message)
        elif side == "business" and exchanges:
            exchanges[-1].business.append(message)
        elif side == "business":
            if not greeted:
                omissions[GREETINGS] += 1
            greeted = True
        if exchanges and side in ("customer", "business"):
            exchanges[-1].tools += waiting
            waiting = []
    if waiting and exchanges and not exchanges[-1].business:
        exchanges[-1].tools += waiting
    elif waiting:
        omissions["tool messages after the last reply"] += len(waiting)
    return exchanges


def _turn(exchange: _Exchange, writer: str) -> Turn:
    customer, business = exchange.customer, exchange.business
    suggestions = [message["suggestion"] for message in business if message["suggestion"] is not None]
    reactions = {message["reaction"] for message in business}
    suggestion = "\n".join(suggestions) if suggestions else None
    reaction: Reaction = business[0]["reaction"] if len(reactions) == 1 else "edited"
    # Several messages are no suggestion of a policy's, whatever each of them was.
    sampled = business[0]["sampled"] if len(business) == 1 else {"behaviour": "log"}
    return Turn(
        _join(customer),
        suggestion,
        reaction,
        _join(business),
        writer=_writer(business, sampled, writer),
        **sampled,
        started_at=next((m["time"] for m in reversed(customer) if m["time"] is not None), 0.0),
        ended_at=next((m["time"] for m in reversed(business) if m["time"] is not None), 0.0),
        tool_messages=exchange.tool_messages(),
    )


def _writer(business: Sequence[dict[str, Any]], sampled: dict[str, Any], writer: str) -> str:
    """Of a turn that no policy wrote, else the name of who explored."""
    if not sampled.get("policy_digest"):
        return "+".join(sorted({message["writer"] or writer for message in business}))
    return business[0]["writer"] or "" if sampled["behaviour"] == "explore" else ""


def _join(messages: Sequence[dict[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages)


def is_text(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def show(value: Any) -> str:
    """A value of a log, for errors."""
    if value is None:
        return "missing"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "nested too deeply"
    return (text if is_text(text) else json.dumps(value, default=str))[:80]


def show_kind(value: Any) -> str:
    """As `show`, but of what may be different on every line only what it is: such problems are of one kind."""
    names = ((str, "a text"), (dict, "an object"), (list, "a list"))
    return next((name for kind, name in names if isinstance(value, kind)), "") or show(value)


def is_message(value: Mapping[str, Any]) -> bool:
    """Whether it has a message's two fields, under one of their pairs of names."""
    return any(names <= value.keys() for names in ({"role", "content"}, {"from", "value"}))


def fields_of(value: Mapping[str, Any]) -> str:
    """What an object has where a field is missing, for errors; empty of one that has nothing."""
    names = ", ".join(plain_name(name) for name in list(value)[:_FIELDS_SHOWN])
    return f" (it has {names}{', …' if len(value) > _FIELDS_SHOWN else ''})" if names else ""


def plain_name(name: str) -> str:
    """The name of a field, for errors."""
    return show(name)[1:-1]
