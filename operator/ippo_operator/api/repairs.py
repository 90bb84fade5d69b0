"""What to write in place of a value that a field does not take, where it can be told; never what is refused as well."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

Schema = dict[str, Any]

_DIGITS = 40
"""A decimal of more digits before or after its point is no slip of the pen."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WINDOWS = ("d", "h", "m")
"""Units of a `Window`, the largest first."""
_BYTES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NO_HUB = "no stage reaches the hub: download the model and give file:// or s3://"


def remedy(name: str, value: Any, schema: Schema, accepted: Callable[[Any], bool]) -> str | None:
    """What to do about a wrong value, as the end of a sentence; None where nobody can tell.

    Args:
        name: of the field, whose ending may say a unit.
        value: that the field does not take.
        schema: of the field, without $ref.
        accepted: whether rules let a value pass that the schema takes.
    """
    if isinstance(value, str) and _HUB_NAME.fullmatch(value) and fits("tiny:d64-l2", schema):
        return _NO_HUB
    choices = [choice for option in _options(schema) for choice in option.get("enum", ())]
    near = [choice for choice in choices if isinstance(value, str) and _folded(choice) == _folded(value)]
    fitting = (each for each in (*near, *_candidates(name, value)) if fits(each, schema) and accepted(each))
    right = next(fitting, None)
    if right is None:
        return None
    percent = f"for {value} percent " if isinstance(value, int) and right == _plain(Decimal(value) / 100) else ""
    return f"{percent}write {right if right in choices else json.dumps(right)}"


def fits(value: bool | float | str, schema: Schema) -> bool:
    """Whether a schema without $ref takes a plain value."""
    return any(_fits(value, option) for option in _options(schema))


def _fits(value: bool | float | str, schema: Schema) -> bool:
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if isinstance(value, bool):
        return bool(schema.get("type") == "boolean")
    if isinstance(value, int):
        below = value < schema.get("exclusiveMaximum", value + 1)
        within = schema.get("minimum", value) <= value <= schema.get("maximum", value)
        return bool(schema.get("type") == "integer" and below and within)
    if not isinstance(value, str) or schema.get("type") != "string":
        return False
    length = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    return length and re.search(schema.get("pattern", ""), value) is not None


def _options(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf", [schema]))


def _candidates(name: str, value: Any) -> Iterator[bool | int | str]:
    """The same value in other notations."""
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, int | float):
        plain = _plain(value)
        if plain is not None:
            yield from (_whole(plain), plain)
        if isinstance(value, int) and 1 < value <= 100:
            yield _plain(Decimal(value) / 100) or ""
    elif isinstance(value, str):
        yield from _of_text(name, value.strip())


def _of_text(name: str, text: str) -> Iterator[bool | int | str]:
    if text.lower() in ("true", "false"):
        yield text.lower() == "true"
    plain = _plain(text)
    if plain is not None:
        yield from (_whole(plain), plain)
    if text.endswith("%") and (percent := _plain(text[:-1].strip())) is not None:
        yield _plain(Decimal(percent) / 100) or ""
    if text.startswith("/"):
        yield f"file://{text}"
    yield from _of_units(name, text)


def _of_units(name: str, text: str) -> Iterator[int | str]:
    """Spans of time and amounts of bytes."""
    if re.fullmatch(r"(\d{1,9}[smhdw])+", text):
        seconds = sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"(\d+)(\w)", text))
        yield from (f"{seconds // _SECONDS[unit]}{unit}" for unit in _WINDOWS if seconds % _SECONDS[unit] == 0)
        if name.endswith("Seconds"):
            yield seconds
    match = re.fullmatch(r"(\d{1,9})([kMGT]i?|Ki)B?", text)
    if match and match[2] in _BYTES and name.endswith("Bytes"):
        yield int(match[1]) * _BYTES[match[2]]


def _whole(plain: str) -> int | str:
    """A decimal as a whole number, if it is one."""
    number = Decimal(plain)
    return int(number) if number == number.to_integral_value() else plain


def _folded(text: str) -> str:
    """Without case and punctuation."""
    return re.sub(r"[\W_]", "", text).lower()


def _plain(value: float | str | Decimal) -> str | None:
    """A number without exponent, or None if it is none."""
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    # Without an exponent, 1e999999999 would be a gigabyte of zeros.
    return format(number, "f") if number.is_finite() and abs(number.adjusted()) <= _DIGITS else None
