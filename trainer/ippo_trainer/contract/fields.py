"""What a text in a spec may be: decimals, addresses, spans of time, each with its pattern and its words."""

from typing import Annotated, Any

from pydantic import Field

WORDS = "x-ippo-words"
"""Where a field's schema says in words what its pattern allows."""
WHOLE = "x-ippo-whole"
"""Where the schema of a map says by a pattern of which keys whole numbers are wanted, though others may be written."""


def matching(pattern: str, words: str, max_length: int) -> Any:
    """A field of text that matches `pattern`; `words` say so in errors and in the manual."""
    return Field(pattern=pattern, max_length=max_length, json_schema_extra={WORDS: words})


NAME = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NAME_WORDS = "lower-case letters, digits and '-'"
Decimal = Annotated[str, matching(r"^-?[0-9]{1,9}(\.[0-9]{1,12})?$", 'a decimal in quotes such as "0.05"', 24)]
Share = Annotated[str, matching(r"^(0(\.[0-9]{1,12})?|1(\.0{1,12})?)$", 'a decimal in quotes from "0" to "1"', 16)]
Positive = Annotated[
    str,
    matching(
        r"^(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]{0,8}(\.[0-9]{1,12})?)$",
        'a decimal in quotes above zero such as "0.001"',
        24,
    ),
]
# hf:// is refused by rules, with a sentence: no stage can reach the hub. The patterns are those of the first release.
Uri = Annotated[str, matching(r"^(file|s3|hf)://\S+$", "a file:// or s3:// address", 1024)]
Base = Annotated[
    str, matching(r"^(tiny:[a-z0-9-]+|(file|s3|hf)://\S+)$", "tiny:d64-l2, or a file:// or s3:// address", 1024)
]
Confidence = Annotated[
    str, matching(r"^0\.[5-9][0-9]{0,6}$", 'a decimal in quotes from "0.5" to below "1", such as "0.95"', 16)
]

Writers = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1, max_length=16)]
WINDOW = r"^[1-9][0-9]{0,5}[mhd]$"
WINDOW_WORDS = 'one whole number from 1 to 999999, then m, h or d for minutes, hours or days, such as "14d"'
Window = Annotated[str, matching(WINDOW, WINDOW_WORDS, 8)]
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def window_seconds(window: str) -> int:
    """A `Window` in seconds."""
    return int(window[:-1]) * _SECONDS[window[-1]]
