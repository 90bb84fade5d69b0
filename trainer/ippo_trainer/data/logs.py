"""Import of a stranger's chat log: JSON lines (optionally gzipped), or turn Parquet.

One line is one conversation:

    {"conversation_id": "c1", "outcome": true, "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "how can I help?", "suggestion": "hi", "reaction": "edited"}, …]}

Roles: `user` or `customer`; `assistant`, `agent` or `business`; `system` messages are left out, because the run's own
`policy.systemPrompt` stands in every prompt. `outcome` may be null or missing while a conversation is open: it is
censored then. Without `suggestion` the message itself counts as the suggestion, accepted; null means that the agent
abstained. What the policy could not have answered is left out and counted in the log: a greeting before the first
customer message, customer messages after the last reply, conversations without a reply.
"""

import codecs
import gzip
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.reactions import REACTIONS, Reaction
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.spelling import misspelt
from ippo_trainer.data.turns import iter_turns

CUSTOMER_ROLES = ("user", "customer")
BUSINESS_ROLES = ("assistant", "agent", "business")
_FORMAT = 'One JSON object per line: {"conversation_id", "messages": [{"role", "content"}], "outcome"}.'
_CONVERSATION_FIELDS = ("conversation_id", "messages", "outcome")
_MESSAGE_FIELDS = ("role", "content", "suggestion", "reaction")
_MAX_LINE = 16 * 1024 * 1024

log = logging.getLogger(__name__)


def read_log(path: Path, warn: Callable[[str], None] = log.warning) -> list[Conversation]:
    """All conversations of a log.

    Args:
        path: of the log.
        warn: is told what was left out, and how often.

    Raises:
        BadDataError: names file and line (or row and column) and the remedy: no such file, unknown format, damaged
            archive, not JSON, NaN, missing, misspelt or mistyped field, a field twice, empty message, unknown role, an
            id twice, no conversation with a customer message and a reply to it. Several problems come in one error.
    """
    if not path.is_file():
        raise BadDataError(f"there is no log {path}", "Check warmStart.conversations.")
    names = path.name.lower()
    if names.endswith(".parquet"):
        conversations = list(iter_turns(path, imported=True))
    elif names.endswith((".jsonl", ".jsonl.gz")):
        conversations = _read_jsonl(path, warn)
    else:
        raise BadDataError(f"{path.name} is no log that can be read", "Give .jsonl, .jsonl.gz or turn .parquet.")
    if not conversations:
        raise BadDataError(f"no conversations with a customer message and a reply in {path.name}", _FORMAT)
    return conversations


def read_state(messages: Mapping[int, Any]) -> tuple[list[Turn], str]:
    """A conversation that waits for a suggestion, read as a log's messages are: its turns and the newest message.

    Args:
        messages: in order, by the numbers that errors name.

    Raises:
        BadDataError: as `read_log` does of messages; or the last message is not the customer's.
    """
    checked = [_message(f"messages[{i}]", message) for i, message in messages.items()]
    count = next((n for n, m in enumerate(reversed(checked)) if m["side"] != "customer"), len(checked))
    if not count:
        raise BadDataError("the last message is not the customer's", "End with the message to answer (role user).")
    return _turns(checked, Counter()), _join(checked[-count:])


def _read_jsonl(path: Path, warn: Callable[[str], None]) -> list[Conversation]:
    omissions: Counter[str] = Counter()
    lines_of: dict[str, int] = {}
    conversations = []
    problems = Problems(path.name)
    for number, data in _lines(path, problems):
        line = _LogLine(path.name, number, problems)
        with problems.collecting():
            conversation = line.conversation(line.parse(data), omissions)
            if conversation is None:
                continue
            first = lines_of.setdefault(conversation.id, number)
            if first != number:
                what = f": conversation_id {conversation.id!r:.100} comes a second time"
                line.fail(what, f"The first is on line {first}; write each conversation on one line.")
            if conversation.turns:
                conversations.append(conversation)
            else:
                omissions["conversations without a reply"] += 1
    problems.check()
    for what, count in sorted(omissions.items()):
        warn(f"{path.name}: left out {count} {what}")
    return conversations


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, in constant memory."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while data := file.readline(_MAX_LINE + 1):
                number += 1
                if number == 1:
                    _check_encoding(path.name, data)
                    data = data.removeprefix(codecs.BOM_UTF8)
                if len(data) > _MAX_LINE:
                    problems.add(ProblemError(path.name, f"line {number}", " is longer than 16 MiB", _FORMAT))
                    while data and not data.endswith(b"\n"):
                        data = file.readline(_MAX_LINE)
                elif data.strip():
                    yield number, data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f" is the last before the file is damaged: {error}"
        problems.add(ProblemError(path.name, f"line {number}", what, "Compress the log with gzip again."))


def _check_encoding(name: str, data: bytes) -> None:
    """UTF-16 and UTF-32 would be a problem on every line."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise BadDataError(f"{name}, line 1 is not UTF-8 but looks like UTF-16 or UTF-32", "Save the log as UTF-8.")


class _LogLine:
    """One line of a log, which is one conversation."""

    def __init__(self, file: str, number: int, problems: Problems) -> None:
        self._file, self._place, self._problems = file, f"line {number}", problems

    def fail(self, what: str, remedy: str) -> NoReturn:
        """Raises a ProblemError of this line."""
        raise ProblemError(self._file, self._place, what, remedy)

    def parse(self, data: bytes) -> dict[str, Any]:
        """The line's JSON object."""

        def refuse(constant: str) -> NoReturn:
            self.fail(f" holds {constant}", "Write null, or leave the field out.")

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            fields = dict(pairs)
            if len(fields) < len(pairs):
                twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
                self.fail(f" has the field {_show(twice)} twice in one object", "Keep one of them.")
            return fields

        try:
            value = json.loads(data.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
        except UnicodeDecodeError:
            self.fail(" is not UTF-8", "Save the log as UTF-8.")
        except (ValueError, RecursionError) as error:
            self.fail(f" is not JSON: {error}", _FORMAT)
        if not isinstance(value, dict):
            self.fail(" is no JSON object", _FORMAT)
        return value

    def conversation(self, value: dict[str, Any], omissions: Counter[str]) -> Conversation | None:
        """The conversation, or None where something is wrong with it; all of that is collected."""
        before = self._problems.total
        with self._problems.collecting():
            identifier = self._identifier(value)
        outcome = value.get("outcome")
        if outcome is not None and not isinstance(outcome, bool):
            self._note(f": outcome is {_show(outcome)}", "Use true, false, or null while it is open.")
        self._check_names(value, "", _CONVERSATION_FIELDS)
        messages = value.get("messages")
        if not isinstance(messages, list):
            self._note(f": messages is {_show(messages)}", _FORMAT)
            return None
        checked = []
        for index, message in enumerate(messages):
            try:
                checked.append(_message(f"messages[{index}]", message))
            except BadDataError as error:
                self._note(f": {error.message}", error.remedy)
            if isinstance(message, dict):
                self._check_names(message, f"messages[{index}].", _MESSAGE_FIELDS)
        if self._problems.total > before:
            return None
        return Conversation(identifier, _turns(checked, omissions), bool(outcome), censored=outcome is None)

    def _identifier(self, value: dict[str, Any]) -> str:
        identifier = value.get("conversation_id")
        is_name = isinstance(identifier, str | int) and not isinstance(identifier, bool)
        if not is_name or identifier == "" or not _is_text(str(identifier)):
            self.fail(f": conversation_id is {_show(identifier)}", "Give each conversation a unique text.")
        return str(identifier)

    def _check_names(self, value: dict[str, Any], prefix: str, known: Collection[str]) -> None:
        for name, field in misspelt(value, known).items():
            self._note(f": unknown field {prefix}{_plain(name)}", f"Rename it to {field}, or leave it out.")

    def _note(self, what: str, remedy: str) -> None:
        self._problems.add(ProblemError(self._file, self._place, what, remedy))


def _message(where: str, value: Any) -> dict[str, Any]:
    """One checked message as {"side", "content", "suggestion", "reaction"}."""
    if not isinstance(value, dict):
        raise BadDataError(f"{where} is {_show(value)}", 'Write {"role", "content"}.')
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in (*CUSTOMER_ROLES, *BUSINESS_ROLES, "system"):
        allowed = ", ".join((*CUSTOMER_ROLES, *BUSINESS_ROLES, "system"))
        raise BadDataError(f"{where}.role is {_show(role)}", f"Use one of {allowed}.")
    if not isinstance(content, str):
        raise BadDataError(f"{where}.content is {_show(content)}", "It must be a text.")
    if role == "system":
        return {"side": "system"}
    if not content.strip():
        raise BadDataError(f"{where}.content is empty", "Leave the message out of the log.")
    if not _is_text(content):
        raise BadDataError(f"{where}.content holds half a surrogate pair", "Write valid Unicode.")
    if role in CUSTOMER_ROLES:
        return {"side": "customer", "content": content}
    suggestion, reaction = _action(where, value, content)
    return {"side": "business", "content": content, "suggestion": suggestion, "reaction": reaction}


def _action(where: str, value: dict[str, Any], content: str) -> tuple[str | None, Reaction]:
    """What was suggested and what became of it: by default the message itself, accepted."""
    suggestion = value.get("suggestion", content)
    if suggestion is not None and not (isinstance(suggestion, str) and _is_text(suggestion)):
        raise BadDataError(f"{where}.suggestion is {_show(suggestion)}", "Use a text, or null if there was none.")
    default = "rejected" if suggestion is None else "accepted" if suggestion == content else None
    # Tables write null where there is nothing.
    reaction: Any = default if value.get("reaction") is None else value["reaction"]
    if reaction is None or reaction not in REACTIONS:
        problem = "is missing, and the suggestion is not what was sent" if reaction is None else f"is {_show(reaction)}"
        raise BadDataError(f"{where}.reaction {problem}", f"Use one of {', '.join(REACTIONS)}.")
    if suggestion is None and reaction != "rejected":
        raise BadDataError(
            f"{where}.reaction is {_show(reaction)} without a suggestion", "Use rejected or leave it out."
        )
    return suggestion, reaction


def _turns(messages: list[dict[str, Any]], omissions: Counter[str]) -> list[Turn]:
    """Alternating turns: consecutive messages of one side are joined by line breaks."""
    sides = [message for message in messages if message["side"] != "system"]
    if len(sides) < len(messages):
        omissions["system messages"] += len(messages) - len(sides)
    runs: list[list[dict[str, Any]]] = []
    for message in sides:
        if runs and runs[-1][0]["side"] == message["side"]:
            runs[-1].append(message)
        else:
            runs.append([message])
    if runs and runs[0][0]["side"] == "business":
        omissions["greetings before the first customer message"] += 1
        runs = runs[1:]
    if len(runs) % 2:
        omissions["customer messages that nobody answered"] += 1
        runs = runs[:-1]
    return [_turn(customer, business) for customer, business in zip(runs[::2], runs[1::2], strict=True)]


def _turn(customer: list[dict[str, Any]], business: list[dict[str, Any]]) -> Turn:
    sent = _join(business)
    suggestions = [message["suggestion"] for message in business if message["suggestion"] is not None]
    reactions = {message["reaction"] for message in business}
    suggestion = "\n".join(suggestions) if suggestions else None
    reaction: Reaction = business[0]["reaction"] if len(reactions) == 1 else "edited"
    return Turn(_join(customer), suggestion, reaction, sent, behaviour="log")


def _join(messages: list[dict[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _is_text(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _show(value: Any) -> str:
    if value is None:
        return "missing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply"
    return (text if _is_text(text) else json.dumps(value))[:80]


def _plain(name: str) -> str:
    return _show(name)[1:-1]
