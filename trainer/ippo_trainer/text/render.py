"""The one place that turns a conversation's history into a prompt, and a suggestion into tokens and back.

Collect, warm start, fit-q, improve and serving all use it, so that a state is the same tokens everywhere.

One chat turn is one logged turn: the user message is a note on what became of the previous suggestion, then the
newest customer message; the assistant message is the suggestion. Only what happened later is appended, so where the
chat template allows it the prompt of turn t is a prefix of the prompt of turn t+1.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Turn
from ippo_trainer.text.markers import ABSTAIN, MARKERS, REACTION_MARKERS, escape, unescape

FILE = "prompt.json"
VERSION = 1

_SLOT = re.compile("\ue000(\\d+)\ue001")
# Templates may print the date of today (Llama 3) or open a thinking block (Qwen 3); a state must not depend on the day.
_TEMPLATE_OPTIONS = {"date_string": "1 Jan 2025", "enable_thinking": False}
# Strangers choose the texts that a server is asked about, so what is kept of them has a bound, about 60 MB.
_CACHED_SIZE = 2**21
# A longer text than so many characters for each token of the longest prompt hardly ever fits into one.
_CHARACTERS = 16
# A word that is cut in two may have so many more tokens than it had.
_CUT_WORD = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered state."""

    ids: list[int]
    dropped_turns: int
    """Oldest turns that did not fit."""


class _Texts:
    """Tokens of the texts that were met lately."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode
        self._known: dict[str, tuple[int, ...]] = {}
        self._size = 0

    def __call__(self, text: str) -> tuple[int, ...]:
        """Its tokens."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._encode(text)
            self._size += len(ids) + len(text)
            if self._size > _CACHED_SIZE:
                self._known, self._size = {}, len(ids) + len(text)
            self._known[text] = ids
        return ids


class Renderer:
    """Renders histories for one tokenizer.

    Args:
        tokenizer: a fast tokenizer with a chat template and an EOS token.
        system_prompt: put first in every prompt; empty for none.
        max_prompt_tokens: longer histories lose their oldest turns; system prompt and newest message always stay.

    Raises:
        BadDataError: no chat template, no EOS token, or a template that does not print every message once, in order.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str, max_prompt_tokens: int) -> None:
        _check_tokenizer(tokenizer)
        self.tokenizer: Any = tokenizer
        self.system_prompt = system_prompt
        self.max_prompt_tokens = max_prompt_tokens
        self._plain = _Texts(self._encode_plain)
        self._skeleton = lru_cache(1024)(self._make_skeleton)
        self._template = lru_cache(1024)(self._encode_template)  # most pieces of a long chat are equal
        added = tokenizer.added_tokens_decoder
        self._control = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        # Added tokens that are not special (tool tags, for example) still match inside plain text; white space may.
        loose = [t.content for t in added.values() if not t.special and t.content.strip() and len(t.content) > 1]
        self._loose = re.compile("|".join(map(re.escape, sorted(loose, key=len, reverse=True)))) if loose else None
        self._markers = {marker: self._encode_marker(marker) for marker in MARKERS}
        self._ending = self._find_ending()
        self.stop_ids: frozenset[int] = frozenset({self._ending[-1], tokenizer.eos_token_id})
        """Tokens that end a suggestion: what the template puts after an assistant message, and EOS."""

    @property
    def stop_id(self) -> int:
        """The token that ends a rendered suggestion."""
        return self._ending[-1]

    def messages(self, history: Sequence[Turn], customer_message: str) -> list[dict[str, str]]:
        """The state as chat messages, untruncated, for tools that apply the chat template themselves."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        messages, previous = list(system), None
        for turn in history:
            messages.append({"role": "user", "content": _user_text(previous, turn.customer_message)})
            suggestion = ABSTAIN if turn.suggestion is None else escape(turn.suggestion)
            messages.append({"role": "assistant", "content": suggestion})
            previous = turn
        messages.append({"role": "user", "content": _user_text(previous, customer_message)})
        return messages

    def prompt(self, history: Sequence[Turn], customer_message: str) -> Prompt:
        """Tokens of a state, ready for the suggestion: at most `max_prompt_tokens` of them.

        Args:
            history: the turns before this one, oldest first.
            customer_message: the newest message.

        Raises:
            BadDataError: the newest message is empty, or does not fit even without any history.
        """
        if not customer_message.strip():
            raise BadDataError("the customer message is empty", "A state needs a message to answer.")
        kept = self._fitting(history, customer_message)
        recent = history[len(history) - kept :]
        ids: list[int] = []
        for piece, content in zip(self._skeleton(kept), [*self._contents(recent, customer_message), ()], strict=True):
            ids += piece
            ids += content
        return Prompt(ids, len(history) - kept)

    def response(self, suggestion: str | None) -> list[int]:
        """Tokens of a suggestion, up to the stop token. `decode` gives the suggestion back (in Unicode's NFC)."""
        content = self._markers[ABSTAIN] if suggestion is None else self._plain(escape(suggestion))
        return [*content, *self._ending]

    def decode(self, ids: Sequence[int]) -> tuple[str | None, bool]:
        """The suggestion in sampled tokens (None: it abstains), and whether a stop token ended it.

        What comes after the first stop token is ignored.
        """
        stop = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        content, space = list(ids[:stop]), list(self._ending[:-1])
        if stop is not None and space and content[-len(space) :] == space:
            content = content[: -len(space)]
        text = self.text(content)
        return (None if text.strip() == ABSTAIN else unescape(text)), stop is not None

    def text(self, ids: Sequence[int]) -> str:
        """What tokens spell; markers and their escapes as they are."""
        spelt = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(spelt)

    def save(self, directory: Path) -> None:
        """Writes `prompt.json` beside a policy."""
        value = {"version": VERSION, "systemPrompt": self.system_prompt, "maxPromptTokens": self.max_prompt_tokens}
        (directory / FILE).write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: Path, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The renderer that `save` wrote. BadDataError if the file is missing, damaged or of another version."""
        path = directory / FILE
        try:
            value = json.loads(path.read_text("utf-8"))
            version, prompt, tokens = value["version"], value["systemPrompt"], value["maxPromptTokens"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadDataError(f"{path} is missing or damaged: {error}", "Pass a policy that a stage made.") from error
        if version != VERSION:
            raise BadDataError(
                f"{path} has version {version}, not {VERSION}", "Make the policy again with this release."
            )
        return cls(tokenizer, prompt, tokens)

    def _contents(self, history: Sequence[Turn], customer_message: str) -> list[tuple[int, ...]]:
        """Token ids of every message that the template gets: system, then user and assistant in turn, then user."""
        contents = [self._plain(self.system_prompt)] if self.system_prompt else []
        previous: Turn | None = None
        for turn in history:
            contents.append(self._user(previous, turn.customer_message))
            contents.append(self._assistant(turn.suggestion))
            previous = turn
        return [*contents, self._user(previous, customer_message)]

    def _fitting(self, history: Sequence[Turn], customer_message: str) -> int:
        """How many of the newest turns of the history fit into the prompt: the more, the longer it is."""
        limit = self.max_prompt_tokens
        most = self._most(history, customer_message)
        if most == len(history) and self._length(history, customer_message, most) <= limit:
            return most
        bare = self._length(history, customer_message, 0)
        if bare > limit:
            raise BadDataError(
                f"the newest customer message makes a prompt of at least {bare} tokens, "
                f"more than policy.maxPromptTokens = {limit}",
                "Raise policy.maxPromptTokens, shorten policy.systemPrompt or leave the conversation out.",
            )
        return bisect_right(range(1, most + 1), limit, key=lambda kept: self._length(history, customer_message, kept))

    def _most(self, history: Sequence[Turn], customer_message: str) -> int:
        """A bound of the turns that fit, from what is said alone; what is older than these is not looked at."""
        total, following = 0, customer_message
        for kept, turn in enumerate(reversed(history)):
            total += len(self._user(turn, following)) + len(self._assistant(turn.suggestion))
            if total > self.max_prompt_tokens:
                return kept
            following = turn.customer_message
        return len(history)

    def _length(self, history: Sequence[Turn], customer_message: str, kept: int) -> int:
        contents = self._contents(history[len(history) - kept :], customer_message)
        return sum(map(len, self._skeleton(kept))) + sum(map(len, contents))

    def _user(self, previous: Turn | None, customer_message: str) -> tuple[int, ...]:
        text = escape(customer_message)
        if previous is None:
            return self._bounded(text)
        return self._markers[REACTION_MARKERS[previous.reaction]] + self._bounded(_sent_note(previous) + text)

    def _assistant(self, suggestion: str | None) -> tuple[int, ...]:
        return self._markers[ABSTAIN] if suggestion is None else self._bounded(escape(suggestion))

    def _bounded(self, text: str) -> tuple[int, ...]:
        """Tokens of a text. One that fits into no prompt is not read to its end, as that may take seconds; what comes
        back then is too long as well."""
        size = _CHARACTERS * self.max_prompt_tokens
        while size < len(text):
            beginning = self._plain(text[:size])
            if len(beginning) > 2 * self.max_prompt_tokens + _CUT_WORD:
                return beginning
            size *= 4
        return self._plain(text)

    def _make_skeleton(self, turns: int) -> tuple[tuple[int, ...], ...]:
        """The template's own tokens around the messages of a history of `turns` turns."""
        system = 1 if self.system_prompt else 0
        pieces = self._pieces(system + 2 * turns + 1, generation=True)
        # Some templates (Llama 2) put a space before an answer that stands in the history, but not where one is to be
        # generated. A suggestion must begin at the same place in both.
        for slot in range(system + 1, len(pieces) - 1, 2):
            if pieces[slot].rstrip() == pieces[-1].rstrip():
                pieces[slot] = pieces[-1]
        return tuple(self._template(text) for text in pieces)

    def _pieces(self, slots: int, generation: bool) -> list[str]:
        """What the template writes before, between and after the slots of as many messages."""
        roles = (["system"] if self.system_prompt else []) + ["user", "assistant"] * slots
        messages = [{"role": roles[slot], "content": f"\ue000{slot}\ue001"} for slot in range(slots)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **_TEMPLATE_OPTIONS
            )
        except (TemplateError, ValueError, TypeError) as error:
            remedy = "Leave policy.systemPrompt empty." if self.system_prompt else "Choose another base model."
            raise BadDataError(f"the tokenizer's chat template failed: {error}", remedy) from error
        parts = _SLOT.split(text)
        if parts[1::2] != [str(slot) for slot in range(slots)]:
            raise BadDataError(
                "the tokenizer's chat template does not print every message once and in order",
                "Choose a base model with an ordinary chat template, or leave policy.systemPrompt empty.",
            )
        return parts[::2]

    def _find_ending(self) -> tuple[int, ...]:
        """What the template puts after an assistant message, up to its first special token; else EOS."""
        slots = 3 if self.system_prompt else 2
        tail = self._encode_template(self._pieces(slots, generation=False)[-1])
        for index, token in enumerate(tail):
            if token in self._control:
                return tail[: index + 1]
            if self.tokenizer.decode([token]).strip():
                break
        return (self.tokenizer.eos_token_id,)

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _encode_marker(self, marker: str) -> tuple[int, ...]:
        """One special token where the tokenizer has it, else its plain spelling."""
        return self._encode_template(marker)

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        """Tokens of somebody's text: whatever it says, none of them is a special token."""
        pieces = _cut_inside(self._loose, text) if self._loose else [text]
        ids: list[int] = []
        for piece in pieces:
            ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found = self._control.intersection(ids)
        if self.tokenizer.unk_token is not None and self.tokenizer.unk_token not in text:
            found -= {self.tokenizer.unk_token_id} - {self.tokenizer.eos_token_id}
        if found:
            raise BadDataError(
                f"the tokenizer reads a special token in the text {text[:80]!r}",
                "Remove it from the log, or choose a base with a byte-level tokenizer.",
            )
        return tuple(ids)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    for value, what, setting in (
        (tokenizer.chat_template, "chat template", "chat_template"),
        (tokenizer.eos_token_id, "EOS token", "eos_token"),
    ):
        if value is None:
            raise BadDataError(
                f"the tokenizer has no {what}",
                f"Set {setting} in its tokenizer_config.json, or choose an instruction-tuned base.",
            )
    if not tokenizer.is_fast:
        raise BadDataError(
            "the tokenizer has no tokenizer.json, so special tokens in a customer's text could not be told apart",
            "Save it in the fast format, or choose another base.",
        )


def _cut_inside(tokens: re.Pattern[str], text: str) -> list[str]:
    """Cuts a text after the first character of every match, so that no piece holds a whole one."""
    cuts = [0, *(match.start() + 1 for match in tokens.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if end > start]


def _sent_note(previous: Turn) -> str:
    """What follows the reaction's marker: the message sent instead, if there was one, and a line break."""
    sent = "" if previous.reaction == "accepted" or not previous.sent_message else f" {escape(previous.sent_message)}"
    return f"{sent}\n"


def _user_text(previous: Turn | None, customer_message: str) -> str:
    text = escape(customer_message)
    return text if previous is None else REACTION_MARKERS[previous.reaction] + _sent_note(previous) + text
