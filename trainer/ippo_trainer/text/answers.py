"""Suggestions as the chat template has them: where an answer begins, what ends it, and how its tokens read."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.text.codec import Codec, Control, Part
from ippo_trainer.text.template import ChatTemplate

# What a text may follow without being merged with it; the first that works is taken.
_ANCHORS = ("a", ".", "0", "]", "\n")
_PROBE = "x"


class Answers:
    """Tokens of answers and back.

    Args:
        tokenizer, codec, template: of the policy.
        slot: number of the first answer among the messages.
        ends: tokens that end an answer by the model's files.

    Raises:
        BadDataError: an end is ordinary text, or an answer cannot be read back.
    """

    def __init__(self, tokenizer: Any, codec: Codec, template: ChatTemplate, slot: int, ends: frozenset[int]) -> None:
        self._tokenizer, self._codec = tokenizer, codec
        opening, history = template.pieces(slot, True)[-1], template.pieces(slot + 2, True)
        between = history[slot].removeprefix(opening) if history[slot].startswith(opening) else ""
        # Some templates (Llama 2, Mistral) put a space before an answer that stands in the history, but none where one
        # is to be generated: the model says it.
        self._gap = between if not between.strip() else ""
        self._opening = _from_last(codec.trusted(opening), codec.controls.get(tokenizer.eos_token_id))
        self._space, self._end = self._find_ending(template.pieces(slot + 1, False)[-1], history[slot + 1], ends)
        self.stop_ids = ends | {self._end.id}
        self._before = self._decode([tokenizer.eos_token_id])
        self._check_ends()
        self.lead, self._tail = self._around()
        """White space that the tokens of an answer spell before what it says."""

    @property
    def stop_id(self) -> int:
        """The token that ends a rendered answer."""
        return self._end.id

    def encode(self, content: Sequence[Part]) -> list[int]:
        """Tokens of an answer as they come after a prompt, up to the stop token."""
        for opening in (self._opening, *map(self._anchored, _ANCHORS)):
            start = self._codec.encode(opening)
            whole = self._codec.encode([*opening, self._gap, *content, *self._space, self._end])
            if whole[: len(start)] == start:
                return whole[len(start) :]
        raise BadDataError("the tokenizer cannot tell a suggestion from what stands before it", "Choose another base.")

    def decode(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text of an answer's tokens up to the first stop token, and whether there was one."""
        stop = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        text = self.content(self.text(ids[:stop]))
        return (text if stop is None else text.removesuffix(self._tail)), stop is not None

    def text(self, ids: Sequence[int]) -> str:
        """What tokens spell behind others: SentencePiece, for example, drops a space at the very beginning."""
        return self._decode([self._tokenizer.eos_token_id, *ids])[len(self._before) :]

    def content(self, text: str) -> str:
        """What an answer says whose tokens spell `text`: without what stands before every answer."""
        return text[shared(self.lead, text) :]

    def _decode(self, ids: Sequence[int]) -> str:
        spelt = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(spelt)

    def _anchored(self, anchor: str) -> list[Part]:
        return [*(part for part in self._opening[:1] if isinstance(part, Control)), anchor]

    def _find_ending(self, last: str, between: str, ends: frozenset[int]) -> tuple[tuple[Part, ...], Control]:
        """What the template puts after an answer, up to its first control token, if only white space is before that.
        Else the token of the next role, if the model's files call that an end (GLM). Else EOS."""
        for text, allowed in ((last, None), (between, ends)):
            parts = self._codec.trusted(text)
            space = list(takewhile(lambda part: isinstance(part, str) and not part.strip(), parts))
            control = parts[len(space)] if len(space) < len(parts) else None
            if isinstance(control, Control) and (allowed is None or control.id in allowed):
                return tuple(space), control
        eos = self._codec.controls.get(self._tokenizer.eos_token_id)
        if eos is None:
            raise BadDataError("the tokenizer's EOS token is a piece of ordinary text", "Correct its eos_token.")
        return (), eos

    def _check_ends(self) -> None:
        """An end that a text can hold would cut that text."""
        for end in sorted(self.stop_ids - self._codec.controls.keys()):
            text = self.text([end])
            if text and any(end in self._codec.encode([spelling]) for spelling in (text, text.strip(), f"a{text}")):
                raise BadDataError(
                    f"the model's files call token {end}, {text!r}, an end, and that is ordinary text",
                    "Correct eos_token_id in generation_config.json and config.json.",
                )

    def _around(self) -> tuple[str, str]:
        """What the tokens of an answer spell before and after what it says."""
        text = self.text(self.encode([_PROBE])[:-1])
        lead, probe, tail = text.partition(_PROBE)
        if not probe or lead.strip() or tail.strip():
            raise BadDataError(
                f"the tokenizer reads a suggestion {_PROBE!r} back with something of its chat template, or not at all",
                "Choose a base whose tokenizer loses no text and whose special tokens are not normalized.",
            )
        return lead, tail


def shared(one: str, other: str) -> int:
    """Characters with which both texts begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _from_last(parts: Sequence[Part], default: Control | None) -> Sequence[Part]:
    """From the last control token on; what is before it does not change how the rest is read."""
    places = [index for index, part in enumerate(parts) if isinstance(part, Control) and part.hard]
    if places:
        return parts[places[-1] :]
    return [*([default] if default is not None and default.hard else []), *parts]
