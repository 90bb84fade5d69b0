"""A tokenizer's chat template as the pieces of text around its messages, the same on every day."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase

from ippo_trainer.contract.errors import BadDataError

_SLOT = re.compile("\ue000(\\d+)\ue001")
_TODAY = datetime(2025, 1, 1)
# Templates may print the date of today (Llama 3) or open a thinking block (Qwen 3); a state must not depend on the day.
OPTIONS: dict[str, Any] = {
    "date_string": "1 Jan 2025",
    "strftime_now": _TODAY.strftime,
    "enable_thinking": False,
}
"""What a template is given besides the messages."""
_CHANCE = frozenset({"random", "lipsum"})
_ADDRESS = re.compile(r"(?i) at 0x[0-9a-f]{6}")
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_PAD = "\n \n"
Trim = tuple[Callable[[str], str], Callable[[str], str]]
"""What a template does with the white space before and after a message."""
_TRIMS: tuple[tuple[str, Trim], ...] = (
    (_PAD, (str, str)),
    ("", (str.lstrip, str.rstrip)),
    (" \n", (lambda text: text.lstrip("\n"), lambda text: text.rstrip("\n"))),
)


class ChatTemplate:
    """Renders messages of alternating roles, with or without a system message before them.

    Raises:
        BadDataError: no template, one that does not say the same thing each time, or one that does not print every
            message once, in order.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: bool) -> None:
        self._tokenizer: Any = tokenizer
        self._system = system
        self.pieces = lru_cache(1024)(self._make_pieces)
        self.trims = lru_cache(1024)(self._make_trims)
        self._check_chance()

    def ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Tokens of a state as the tokenizer itself makes them: whoever wrote what."""
        read = self._render(messages, True, tokenize=True, return_dict=False)
        return list(read)

    @property
    def opening(self) -> str:
        """What an answer begins behind."""
        return self.pieces(4 if self._system else 3, True)[-1]

    def has_system(self) -> bool:
        """Whether a system message stands before all others and is no other role's; many templates have none."""
        try:
            self._make_pieces(4, True)
            text = self._render(self._messages(4, "", ""), True)
        except BadDataError:
            return False
        for role in ("user", "assistant"):
            first, *others = self._messages(4, "", "")
            with suppress(BadDataError):
                if self._render([first | {"role": role}, *others], True) == text:
                    return False
        return True

    def _make_pieces(self, slots: int, generation: bool) -> tuple[str, ...]:
        """What stands before, between and after so many messages; `generation` adds the beginning of an answer."""
        text = self._render(self._messages(slots, "", ""), generation)
        if _ADDRESS.search(text):
            raise _changing("prints an object's address")
        parts = _SLOT.split(text)
        if parts[1::2] != [str(slot) for slot in range(slots)]:
            raise _unordered()
        return tuple(parts[::2])

    def _make_trims(self, slots: int) -> tuple[Trim, ...]:
        """What becomes of the white space around each of so many messages, before an answer is generated."""
        pieces = self.pieces(slots, True)
        left = _SLOT.split(self._render(self._messages(slots, _PAD, ""), True))[::2]
        right = _SLOT.split(self._render(self._messages(slots, "", _PAD), True))[::2]
        if len(left) != len(pieces) or len(right) != len(pieces):
            raise _unordered()
        return tuple(
            (
                _trim(left[slot].removeprefix(pieces[slot]))[0],
                _trim(right[slot + 1].removesuffix(pieces[slot + 1])[::-1])[1],
            )
            for slot in range(slots)
        )

    def _messages(self, slots: int, before: str, after: str) -> list[dict[str, str]]:
        roles = (["system"] if self._system else []) + ["user", "assistant"] * slots
        return [{"role": roles[slot], "content": f"{before}\ue000{slot}\ue001{after}"} for slot in range(slots)]

    def _render(self, messages: list[dict[str, str]], generation: bool, **options: Any) -> Any:
        options = {"tokenize": False} | options
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=generation, **options, **OPTIONS)
        except (TemplateError, ValueError, TypeError) as error:
            remedy = "Leave policy.systemPrompt empty." if self._system else "Choose another base model."
            raise BadDataError(f"the tokenizer's chat template failed: {error}", remedy) from error

    def _check_chance(self) -> None:
        try:
            text = _GENERATION.sub("", self._tokenizer.get_chat_template())  # a tag of transformers' own
            tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)  # noqa: S701 - it renders nothing
        except (TemplateError, ValueError):
            return  # rendering says what is wrong
        used = {str(getattr(node, "name", "")) for node in tree.find_all((nodes.Filter, nodes.Name))}
        if used & _CHANCE:
            raise _changing(f"uses {min(used & _CHANCE)}")


def _trim(left: str) -> Trim:
    for pad, trim in _TRIMS:
        if left == pad:
            return trim
    raise _unordered()


def _changing(what: str) -> BadDataError:
    return BadDataError(
        f"the tokenizer's chat template {what}, so one state would be many prompts",
        "Choose another base model, or take that out of its chat template.",
    )


def _unordered() -> BadDataError:
    return BadDataError(
        "the tokenizer's chat template does not print every message once and in order",
        "Choose a base model with an ordinary chat template, or leave policy.systemPrompt empty.",
    )
