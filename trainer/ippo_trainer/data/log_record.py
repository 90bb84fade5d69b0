"""One line or row of a log, which is one conversation: checked, and made turns of."""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.lines import one_line
from ippo_trainer.data.context import CONTEXT, context_of
from ippo_trainer.data.json_lines import parse
from ippo_trainer.data.message_rows import LISTS
from ippo_trainer.data.messages import (
    EXPLORED,
    TIMES,
    check,
    context_in,
    fields_of,
    is_message,
    is_text,
    lacks_zone_in,
    plain_name,
    show,
    show_kind,
    time_of,
    turns_of,
    writer_of,
)
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import PEOPLE, Conversation
from ippo_trainer.data.spelling import misspelt

FORMAT = 'One JSON object per line: {"conversation_id", "messages": [{"role", "content"}], "outcome"}.'
_CONVERSATION_FIELDS = ("conversation_id", "messages", "outcome", "customer_id", CONTEXT)
_MESSAGE_FIELDS = (
    *("role", "content", "suggestion", "reaction"),
    *("policy_digest", "displayed", "token_ids", "sampler_logprobs", EXPLORED),
)
_READ = {*_CONVERSATION_FIELDS, *LISTS, *TIMES, "id", "writer", "group"}
_READ_OF_MESSAGES = {*_MESSAGE_FIELDS, *TIMES, "from", "value", "writer", "tool_calls", "function_call"}
_LONGEST_GROUP = 64


def group_of(value: Any) -> str:
    """A group as the report names it; empty for what is neither a text nor a whole number: others have such fields."""
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return one_line(str(value), _LONGEST_GROUP) if is_name else ""


def _no_messages(value: dict[str, Any], name: str) -> tuple[str, str]:
    """What is wrong with a line that has no list of messages, and the remedy."""
    if name not in value:
        return f": messages is missing{fields_of(value)}", FORMAT
    what = "null" if value[name] is None else show_kind(value[name])
    return f": messages is {what}, and no list", 'Write them as a list: [{"role", "content"}, …].'


def _joined(*contexts: str) -> str:
    return context_of(CONTEXT, "\n\n".join(text for text in contexts if text))


class Record:
    """One line or row of a log, which is one conversation."""

    def __init__(self, file: str, place: str, problems: Problems, value: dict[str, Any] | None = None) -> None:
        self._file, self.place, self._problems = file, place, problems
        self._value: dict[str, Any] = value or {}

    def fail(self, what: str, remedy: str) -> NoReturn:
        """Raises a ProblemError of this record."""
        raise ProblemError(self._file, self.place, what, remedy)

    def parse(self, data: bytes) -> None:
        """Takes the line's JSON object."""
        value = parse(data, self.fail, FORMAT)
        if not isinstance(value, dict):
            self.fail(" is no JSON object", FORMAT)
        self._value = value

    def conversation(self, omissions: Counter[str]) -> Conversation | None:
        """The conversation, its id empty where it has none; None where something is wrong, which is collected."""
        value, before = self._value, self._problems.total
        list_name = next((name for name in LISTS if isinstance(value.get(name), list)), LISTS[0])
        writer: str | None = None
        context = ""
        with self._problems.collecting():
            writer = self._with_place(writer_of, "", value)
        with self._problems.collecting():
            context = self._with_place(context_of, CONTEXT, value.get(CONTEXT))
        names = (value[name] for name in ("conversation_id", "id") if value.get(name) is not None)
        identifier = self._name("conversation_id", next(names, None))
        customer = self._name("customer_id", value.get("customer_id"))
        outcome = value.get("outcome")
        if outcome is not None and not isinstance(outcome, bool):
            self._note(f": outcome is {show(outcome)}", "Use true, false, or null while it is open.")
        messages = value.get(list_name)
        if messages is None and is_message(value):
            self._note(" is a message by itself", "Write each conversation on one line, its messages in a list.")
            return None
        synonyms = {"conversation_id"} if "id" in value else set()
        self._check_names({**dict.fromkeys(synonyms), **value}, "", _CONVERSATION_FIELDS)
        if not isinstance(messages, list):
            self._note(*_no_messages(value, list_name))
            return None
        checked = []
        for index, message in enumerate(messages):
            with self._problems.collecting():
                checked.append(self._with_place(check, f"{list_name}[{index}]", message, omissions))
            if isinstance(message, dict):
                self._check_names(message, f"{list_name}[{index}].", _MESSAGE_FIELDS)
        if self._problems.total > before:
            return None
        turns = self._with_place(turns_of, checked, omissions, writer or PEOPLE)
        context = self._with_place(_joined, context_in(checked, omissions), context)
        if turns and not turns[-1].ended_at:
            turns[-1].ended_at = time_of(value) or 0.0
        group = group_of(value.get("group"))
        return Conversation(identifier, turns, bool(outcome), outcome is None, customer, context, group)

    def lacks_zones(self) -> bool:
        """Whether some of its times say no zone."""
        lists = (self._value[name] for name in LISTS if isinstance(self._value.get(name), list))
        return any(map(lacks_zone_in, [self._value, *next(lists, ())]))

    def unread(self) -> set[str]:
        """Names of its fields that nobody reads."""
        names = {plain_name(name) for name in self._value.keys() - _READ}
        lists = (self._value[name] for name in LISTS if isinstance(self._value.get(name), list))
        for message in next(lists, ()):
            names |= {f"messages[].{plain_name(name)}" for name in message.keys() - _READ_OF_MESSAGES}
        return names

    def _with_place(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """What `read` makes; its errors get this record's place."""
        try:
            return read(*arguments)
        except BadDataError as error:
            raise ProblemError(self._file, self.place, f": {error.message}", error.remedy) from None

    def _name(self, field: str, value: Any) -> str:
        """An id as a text; empty where there is none, or where it is none, which is noted."""
        if value is None:
            return ""
        is_name = isinstance(value, str | int) and not isinstance(value, bool)
        if not is_name or value == "" or not is_text(str(value)):
            self._note(f": {field} is {show(value)}", "Give each a unique text, or leave the field out.")
            return ""
        return str(value)

    def _check_names(self, value: dict[str, Any], prefix: str, fields: Collection[str]) -> None:
        for name, field in misspelt(value, fields).items():
            self._note(f": unknown field {prefix}{plain_name(name)}", f"Rename it to {field}, or leave it out.")

    def _note(self, what: str, remedy: str) -> None:
        self._problems.add(ProblemError(self._file, self.place, what, remedy))
