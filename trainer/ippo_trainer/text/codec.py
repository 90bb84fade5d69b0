"""Texts to tokens as the tokenizer itself reads them, except that nobody's text can spell a control token.

A tokenizer finds its added tokens first and reads what stands between two of them by itself. So a chat is read stretch
by stretch, each one together with the tokens at its ends, which is the same as reading it whole: what a tokenizer adds
at a beginning (SentencePiece's space), what tokens take from their surroundings (`lstrip`, `rstrip`) and what merges
where a template's text meets a message are as they are in the whole. Most stretches of a long chat were met before.

For this a copy of the tokenizer knows each control token by a random name. Templates and our notes use that name; what
a stranger writes is text, also if it looks like `<|im_end|>`.
"""

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from ippo_trainer.contract.errors import BadDataError

# Strangers choose the texts that a server is asked about, so what is kept of them has a bound, about 60 MB.
_CACHED_SIZE = 2**21
_WORDS = re.compile(r"[\w' -]+")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@dataclass(frozen=True, slots=True)
class Control:
    """A token that only the template and our own notes write."""

    id: int
    alias: str
    hard: bool
    """Whether what is on its two sides is read apart, by the normalizer too."""


Part = str | Control


class _Stretches:
    """Tokens of the stretches that were met lately."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}
        self._size = 0

    def __call__(self, text: str) -> list[int]:
        """Its tokens; not to be changed."""
        ids = self.known.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            self._size += len(ids) + len(text)
            if self._size > _CACHED_SIZE:
                self.known, self._size = {}, len(ids) + len(text)
            self.known[text] = ids
        return ids


class Codec:
    """Encodes chats for one tokenizer.

    Args:
        tokenizer: a fast one.
        ends: tokens that end a suggestion by the model's files.

    Raises:
        BadDataError: a tokenizer that is not always the same (dropout), or of a kind that cannot be copied.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        self._own = tokenizer
        value = json.loads(tokenizer.backend_tokenizer.to_str())
        if value["model"].get("dropout"):
            raise BadDataError(
                "the tokenizer reads a text differently each time (dropout)", "Set dropout to null in tokenizer.json."
            )
        ends = set(ends)
        special = {*tokenizer.all_special_ids, *ends}
        self.controls: dict[int, Control] = {
            token["id"]: Control(
                token["id"],
                f"<{secrets.token_hex(16).translate(_LETTERS)}>",
                not token["normalized"] or value["normalizer"] is None,
            )
            for token in value["added_tokens"]
            if token["special"] or token["id"] in special or not _is_harmless(tokenizer, token["content"])
        }
        self._contents: dict[int, str] = {token["id"]: token["content"] for token in value["added_tokens"]}
        self._stretches = _Stretches(_renamed(value, self.controls))
        self.trusted = lru_cache(1024)(self._read_trusted)
        """A text of the template, or a note of ours: the control tokens in it are what they say."""
        self._unknown: int | None = tokenizer.unk_token_id if tokenizer.unk_token_id in ends else None

    def _read_trusted(self, text: str) -> tuple[Part, ...]:
        if not text:
            return ()
        read = self._own(text, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True)
        parts: list[Part] = []
        done = 0
        for token, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
            if token not in self.controls or end <= start:
                continue
            # The white space that the token takes from its surroundings stays, and is taken again.
            start, end = _inside(text, start, end, self._contents[token])
            parts += [text[done:start]] if start > done else []
            parts.append(self.controls[token])
            done = end
        return (*parts, text[done:]) if done < len(text) else tuple(parts)

    def encode(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a whole chat, or of one from its beginning to somewhere.

        Raises:
            BadDataError: a text has characters that the tokenizer does not know, and its token for such has another
                meaning, too.
        """
        ids: list[int] = []
        texts: list[str] = []
        before: Control | None = None
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif part.hard:
                ids += self._between(before, "".join(texts), part)
                ids.append(part.id)
                before, texts = part, []
            else:
                texts.append(part.alias)
        ids += self._between(before, "".join(texts), None)
        return ids

    def spelling(self, part: Part) -> str:
        """What the tokenizer itself would read as this part."""
        return part if isinstance(part, str) else self._contents[part.id]

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._between(None, text, None))

    def _between(self, before: Control | None, text: str, after: Control | None) -> Sequence[int]:
        if not text:
            return ()
        whole = (before.alias if before else "") + text + (after.alias if after else "")
        read = self._stretches(whole)
        ids = read[before is not None : len(read) - (after is not None)]
        if self._unknown is not None and self._unknown in ids:
            raise BadDataError(
                f"the tokenizer reads a special token, which ends suggestions, in the text {text[:80]!r}: it knows no "
                "other for some characters",
                "Remove them from the log, or choose a base with a byte-level tokenizer.",
            )
        return ids


def _is_harmless(tokenizer: Any, content: str) -> bool:
    """Whether an added token that is not special is a piece of ordinary text (words, white space, one character, a
    byte), and comes back as it is from within a text."""
    if _BYTE.fullmatch(content):
        return True
    if len(content) > 1 and content.strip() and not _WORDS.fullmatch(content):
        return False
    text = f"a{content}b"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    spelt = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(spelt).strip().casefold() == text.casefold()


def _inside(text: str, start: int, end: int, content: str) -> tuple[int, int]:
    """Where a control token itself stands in a piece of text that it was read from."""
    place = text.find(content, start, end)
    if place >= 0:
        return place, place + len(content)
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _renamed(value: dict[str, Any], controls: dict[int, Control]) -> Tokenizer:
    """The tokenizer with each control token by its alias, under the same id."""
    added = value["added_tokens"]
    aliases = {token["content"]: controls[token["id"]].alias for token in added if token["id"] in controls}
    names = {token["id"]: aliases.get(token["content"], token["content"]) for token in added}
    model = value["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {aliases.get(token, token): index for token, index in model["vocab"].items()}
        model["vocab"] |= {name: index for index, name in names.items()}
    else:
        _rename_list(model["vocab"], aliases, names)
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _touches(pair, aliases)]
    for token in added:
        token["content"] = names[token["id"]]
    copy = value | {"model": model, "post_processor": None, "truncation": None, "padding": None}
    try:
        tokenizer_copy = Tokenizer.from_str(json.dumps(copy))
    except Exception as error:  # the library raises plain Exceptions
        raise BadDataError(
            f"the tokenizer cannot be read with other names for its special tokens: {error}",
            "Choose another base model.",
        ) from error
    if any(tokenizer_copy.token_to_id(control.alias) != index for index, control in controls.items()):
        raise BadDataError(
            "the tokenizer's special tokens have other ids than its vocabulary", "Choose another base model."
        )
    return tokenizer_copy


def _rename_list(pieces: list[list[Any]], aliases: dict[str, str], names: dict[int, str]) -> None:
    """The same for a vocabulary where a token's place is its id (Unigram), in place."""
    for piece in pieces:
        piece[0] = aliases.get(piece[0], piece[0])
    for index in range(len(pieces), max(names, default=-1) + 1):
        pieces.append([names.get(index, f"<unused-{secrets.token_hex(16)}>"), 0.0])


def _touches(pair: str | list[str], names: dict[str, str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left in names or right in names or left + right in names
