"""What is taken out of texts before an event is written anywhere: by patterns, or by a function of the user's own.

Patterns take time that is linear in a text, whoever wrote it. They know nothing of languages: names and addresses stay.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.live.events import REACTION, SUGGESTION, Event

Hook = Callable[[str], str]

# Possessive: a run that does not match is never tried again from within.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w.-]++")
_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d)*+")
_GROUP = re.compile(r"\d++")
_CARD = range(13, 20)
"""Digits of a card's number."""
_PHONE = re.compile(r"(?<![\w+])\+?\(?\d(?:[ ()./-]{0,3}\d)*+")
_NATIONAL, _INTERNATIONAL = 9, 7
"""The fewest digits of a phone number without and with + or 00: fewer may be a date or a price."""
_KEPT = frozenset({"role", "from", "type", "reaction", "tool_call_id", "id"})
"""Fields of messages that are no texts of anybody."""
_NAMES = ("conversation_id", "customer_id")
_BLANK = "[redacted]"


def redaction(names: Sequence[str]) -> Callable[[Event], Event]:
    """What is applied to events.

    Args:
        names: of `PATTERNS`, which come first, or `module:function` of a function that takes a text and returns one.

    Raises:
        BadSpecError: an unknown name, or a function that cannot be loaded.
    """
    hooks = [hook for name, hook in PATTERNS.items() if name in names]
    hooks += [_loaded(name) for name in names if name not in PATTERNS]

    def hook(text: str) -> str:
        for each in hooks:
            text = each(text)
        return text

    return (lambda event: redacted(event, hook)) if hooks else (lambda event: event)


def redacted(event: Event, hook: Hook) -> Event:
    """The event with all texts of customers and of the business as the hook leaves them; the event given stays as it
    is. Ids in which the hook finds something become pseudonyms, equal for equal ids."""
    event = _with_names(event, hook)
    if event["kind"] == REACTION and event["sent"] is not None:
        return event | {"sent": _text(event["sent"], hook)}
    if event["kind"] != SUGGESTION:
        return event
    record = _with_names(event["suggestion"], hook)
    record |= {name: _text(record[name], hook) for name in ("message", "context", "group") if record.get(name)}
    record["messages"] = [_message(each, hook) for each in record["messages"]]
    before = record["suggestion"]
    if before is not None:
        record["suggestion"] = _text(before, hook)
        if record["suggestion"] != before:
            # They spell what was taken out, and their log-probabilities are those of another text.
            record |= {"token_ids": None, "logprobs": None}
    return event | {"suggestion": record}


def pseudonym(name: str) -> str:
    """What an id becomes that the hook changes."""
    return f"id-{sha256(name.encode()).hexdigest()[:24]}"


def _with_names(value: dict[str, Any], hook: Hook) -> dict[str, Any]:
    ids = {name: value[name] for name in _NAMES if value.get(name)}
    return value | {name: pseudonym(each) for name, each in ids.items() if hook(each) != each}


def _text(text: str, hook: Hook) -> str:
    """A text of which nothing would be left says so: an empty message is none."""
    changed = hook(text)
    return changed if changed.strip() or not text.strip() else _BLANK


def _message(value: Any, hook: Hook) -> Any:
    if isinstance(value, str):
        return _text(value, hook)
    if isinstance(value, int | float) and not isinstance(value, bool):  # a tool may have returned a number of a phone
        changed = hook(str(value))
        return value if changed == str(value) else changed
    if isinstance(value, list):
        return [_message(each, hook) for each in value]
    if isinstance(value, dict):
        return {key: each if key in _KEPT else _message(each, hook) for key, each in value.items()}
    return value


def _emails(text: str) -> str:
    return _EMAIL.sub("[email]", text)


def _phones(text: str) -> str:
    return _PHONE.sub(_phone, text)


def _phone(match: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in match.group())
    least = _INTERNATIONAL if match.group().startswith(("+", "00", "(+")) else _NATIONAL
    return "[phone]" if digits >= least else match.group()


def _cards(text: str) -> str:
    return _DIGITS.sub(_without_cards, text)


def _without_cards(match: re.Match[str]) -> str:
    """A run of digits in groups without the cards' numbers in it: what is beside one, a code or a date, stays."""
    run = match.group()
    if len(run) < _CARD.start:
        return run
    groups = list(_GROUP.finditer(run))
    sums = _Sums("".join(group.group() for group in groups))
    bounds = [0, *accumulate(len(group.group()) for group in groups)]
    pieces, end, first = [], 0, 0
    while first < len(groups):
        last = next((each for each in _ends(bounds, first) if sums.valid(bounds[first], bounds[each])), None)
        if last is None:
            first += 1
            continue
        pieces += [run[end : groups[first].start()], "[card number]"]
        end, first = groups[last - 1].end(), last
    return "".join([*pieces, run[end:]])


def _ends(bounds: Sequence[int], first: int) -> Iterator[int]:
    """The bounds between groups at which a card's number may end that begins at the first one."""
    for index in range(first + 1, len(bounds)):
        if bounds[index] - bounds[first] >= _CARD.stop:
            return
        if bounds[index] - bounds[first] in _CARD:
            yield index


class _Sums:
    """Luhn's check of any stretch of digits, in constant time."""

    def __init__(self, digits: str) -> None:
        values = [int(digit) for digit in digits]
        doubled = [sum(divmod(2 * value, 10)) for value in values]
        places = range(len(values))
        self._sums = [
            [0, *accumulate(doubled[place] if place % 2 == parity else values[place] for place in places)]
            for parity in (0, 1)
        ]
        """Up to each place, by whether the digits at even or at odd places count double."""

    def valid(self, start: int, end: int) -> bool:
        """The last digit counts once, the one before it double, and so on."""
        sums = self._sums[end % 2]
        return (sums[end] - sums[start]) % 10 == 0


def _loaded(name: str) -> Hook:
    module, _, function = name.partition(":")
    remedy = f"Use {', '.join(PATTERNS)}, or module:function of a function that takes a text and returns one."
    if not module or not function:
        raise BadSpecError(f"redaction {name!r:.80} is not known", remedy)
    try:
        hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadSpecError(f"redaction {name!r:.80} cannot be loaded: {error}", remedy) from error
    if not callable(hook):
        raise BadSpecError(f"redaction {name!r:.80} is no function", remedy)

    def checked(text: str) -> str:
        changed = hook(text)
        if not isinstance(changed, str):
            raise TypeError(f"redaction {name} returned {type(changed).__name__}")
        return changed

    return checked


PATTERNS: dict[str, Hook] = {"Email": _emails, "CardNumber": _cards, "Phone": _phones}
"""`CardNumber` comes before `Phone`, which would take a card's number, too."""
