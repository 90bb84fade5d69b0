"""The one place that turns a conversation's history into a prompt, and a suggestion into tokens and back.

Collect, warm start, fit-q, improve and serving all use it, so that a state is the same tokens everywhere.

One chat turn is one logged turn: the user message is a note on what became of the previous suggestion, then the
newest customer message; the assistant message is the suggestion. A state is the tokens that the tokenizer's own
`apply_chat_template` makes of these messages, as long as no text spells a control token. Only what happened later is
appended, so where the chat template allows it the prompt of turn t is a prefix of the prompt of turn t+1. So that this
stays true of histories that are too long, they lose their oldest turns by several at once.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Turn
from ippo_trainer.text import ends
from ippo_trainer.text.answers import Answers
from ippo_trainer.text.codec import Codec, Part
from ippo_trainer.text.markers import ABSTAIN, MARKERS, REACTION_MARKERS, escape, unescape
from ippo_trainer.text.template import ChatTemplate, Trim

FILE = "prompt.json"
VERSION = 1

# A longer text than so many characters for each token of the longest prompt hardly ever fits into one.
_CHARACTERS = 16
# Tokens of words have about so many.
_LIKELY_CHARACTERS = 4
# A character has at most so many tokens, its bytes.
_MOST_TOKENS = 4
# A word that is cut in two may have so many more tokens than it had.
_SPLIT_WORD = 256
# What a tokenizer must give back, and read in a chat as it does by itself.
_PROBES = (
    'Yes, it\'s 12.50 (no. 2) — "red" or blue?\n\nSee you,  Ana',
    "ünï çödé ñ 你好 한 ก שלום 👋🏽 🌷",
    "[accepted] \\[edited] <b>50 %</b> {x: [1]} a_b/c",
    # What a normalizer may drop or merge unnoticed, and every byte of UTF-8 but 0xf1 and 0xf2: no character begins with
    # them, and SmolLM2 knows no 0xf1.
    "1.\tone\r\n2.\ttwo\r\n``code`` ''x'' ... --- !! ~ ^ 👨\u200d👩 می\u200cخواهم",
    "".join(map(chr, range(0x21, 0x7F))),
    "".join(map(chr, [*range(0xA1, 0xE1), *range(0x100, 0x800, 0x40), *range(0x1000, 0xD000, 0x1000)])),
    "\ue123\uf900\U00010348\U000e0100\U00100000",
)


class PromptTooLongError(BadDataError):
    """The newest message fits into no prompt, even without any history."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered state."""

    ids: list[int]
    dropped_turns: int
    """Oldest turns that did not fit."""


class Renderer:
    """Renders histories for one tokenizer.

    Texts come back from their tokens in the tokenizer's own normal form: as they are, but for Unicode's form (NFC,
    NFKC), for capitals where it has none, and for white space at the ends of a message where it or the template drops
    that.

    Args:
        tokenizer: a fast tokenizer with a chat template and an EOS token.
        system_prompt: put first in every prompt; empty for none.
        max_prompt_tokens: longer histories lose their oldest turns; system prompt and newest message always stay.
        in_steps: they lose up to half as many more turns as there is room for, so that the next prompts extend this
            one. Without, as policies of release 0.2, every prompt has other oldest turns than the one before.

    Raises:
        BadDataError: no chat template, no EOS token, a template that does not print every message once, in order, or
            not the same each time, or a tokenizer that loses text or ends suggestions with ordinary text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, system_prompt: str, max_prompt_tokens: int, in_steps: bool = False
    ) -> None:
        _check_tokenizer(tokenizer)
        self.tokenizer: Any = tokenizer
        self.system_prompt = system_prompt
        self.max_prompt_tokens = max_prompt_tokens
        self.in_steps = in_steps
        self._system = 1 if system_prompt else 0
        end_ids = ends.of(tokenizer)
        self._codec = Codec(tokenizer, end_ids)
        self._template = ChatTemplate(tokenizer, bool(system_prompt))
        self._skeleton = lru_cache(1024)(self._make_skeleton)
        self._markers = {marker: self._codec.trusted(marker) for marker in MARKERS}
        self._answers = Answers(tokenizer, self._codec, self._template, self._system + 1, end_ids)
        self._answer_trim = self._template.trims(self._system + 3)[self._system + 1]
        self.stop_ids: frozenset[int] = self._answers.stop_ids
        """Tokens that end a suggestion: what the template puts after an assistant message, EOS, and those that the
        model's files name."""
        self._check_reading()

    @property
    def stop_id(self) -> int:
        """The token that ends a rendered suggestion."""
        return self._answers.stop_id

    def messages(self, history: Sequence[Turn], customer_message: str) -> list[dict[str, str]]:
        """The state as chat messages, untruncated, for tools that apply the chat template themselves."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        messages, previous, history = list(system), None, _as_shown(history)
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
            BadDataError: the newest message is empty.
            PromptTooLongError: it does not fit even without any history.
        """
        if not customer_message.strip():
            raise BadDataError("the customer message is empty", "A state needs a message to answer.")
        history = _as_shown(history)
        turns, ids = self._fitting(history, customer_message)
        dropped = len(history) - turns
        if self.in_steps and dropped % _step(turns):
            dropped += -dropped % _step(turns)
            ids = self._ids(history, customer_message, len(history) - dropped)
        return Prompt(ids, dropped)

    def response(self, suggestion: str | None) -> list[int]:
        """Tokens of a suggestion, as they come after a prompt, up to the stop token. `decode` gives it back."""
        content: Sequence[Part] = self._markers[ABSTAIN] if suggestion is None else [escape(suggestion)]
        return self._answers.encode(_trimmed(content, self._answer_trim))

    def decode(self, ids: Sequence[int]) -> tuple[str | None, bool]:
        """The suggestion in sampled tokens (None: it abstains), and whether a stop token ended it.

        What comes after the first stop token is ignored.
        """
        text, ended = self._answers.decode(ids)
        return (None if text.strip() == ABSTAIN else unescape(text)), ended

    def text(self, ids: Sequence[int]) -> str:
        """What tokens of a suggestion spell; markers and their escapes as they are."""
        return self._answers.text(ids)

    def suggestion_text(self, text: str) -> str:
        """A suggestion, or the beginning of one, whose tokens spell this text."""
        return unescape(self._answers.content(text))

    def save(self, directory: Path) -> None:
        """Writes `prompt.json` beside a policy, and all that ends its suggestions into `generation_config.json`."""
        value = {"version": VERSION, "systemPrompt": self.system_prompt, "maxPromptTokens": self.max_prompt_tokens}
        value |= {"inSteps": True} if self.in_steps else {}
        (directory / FILE).write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8")
        ends.write(directory, self.stop_ids)

    @classmethod
    def load(cls, directory: Path, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The renderer that `save` wrote. BadDataError if the file is missing, damaged or of another version."""
        path = directory / FILE
        try:
            value = json.loads(path.read_text("utf-8"))
            version, prompt, tokens = value["version"], value["systemPrompt"], value["maxPromptTokens"]
            in_steps = bool(value.get("inSteps", False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadDataError(f"{path} is missing or damaged: {error}", "Pass a policy that a stage made.") from error
        if version != VERSION:
            raise BadDataError(
                f"{path} has version {version}, not {VERSION}", "Make the policy again with this release."
            )
        return cls(tokenizer, prompt, tokens, in_steps)

    def _contents(self, history: Sequence[Turn], customer_message: str) -> list[Sequence[Part]]:
        """What the template gets: the system prompt, then user and assistant messages in turn, then the newest."""
        contents: list[Sequence[Part]] = [[self.system_prompt]] if self.system_prompt else []
        previous: Turn | None = None
        for turn in history:
            contents.append(self._user(previous, turn.customer_message))
            contents.append(self._assistant(turn.suggestion))
            previous = turn
        return [*contents, self._user(previous, customer_message)]

    def _ids(self, history: Sequence[Turn], customer_message: str, turns: int) -> list[int]:
        """Tokens of a state with the newest `kept` turns, however many they are."""
        pieces, trims = self._skeleton(turns)
        parts = list(pieces[0])
        contents = self._contents(history[len(history) - turns :], customer_message)
        for content, trim, piece in zip(contents, trims, pieces[1:], strict=True):
            parts += content if trim is None else _trimmed(content, trim)
            parts += piece
        return self._codec.encode(parts)

    @cached_property
    def _bare(self) -> int:
        """Tokens of the shortest prompt."""
        return self._length([], "?", 0)

    def cut(self, customer_message: str) -> str:
        """The message; one that fits into no prompt, cut at its end until it does. As it is where no cut helps."""
        text = customer_message
        if _MOST_TOKENS * len(text) + self._bare <= self.max_prompt_tokens:
            return text
        while self._length([], text, 0) > self.max_prompt_tokens:
            text = text.strip()[: len(text.strip()) * 7 // 8]
            if not text:
                return customer_message
        return text

    def _fitting(self, history: Sequence[Turn], customer_message: str) -> tuple[int, list[int]]:
        """How many of the newest turns of the history fit into the prompt (the more, the longer it is), and it."""
        limit, most = self.max_prompt_tokens, len(history)
        if most <= limit and _is_short(history, limit * _LIKELY_CHARACTERS):
            ids = self._ids(history, customer_message, most)
            if len(ids) <= limit:
                return most, ids
        turns, ids = self._most_that_fit(history, customer_message)
        if len(ids) > limit:
            raise PromptTooLongError(
                f"the newest customer message makes a prompt of at least {len(ids)} tokens, "
                f"more than policy.maxPromptTokens = {limit}",
                "Raise policy.maxPromptTokens, shorten policy.systemPrompt or leave the conversation out.",
            )
        return turns, ids

    def _most_that_fit(self, history: Sequence[Turn], customer_message: str) -> tuple[int, list[int]]:
        """Turns and their prompt; no turns where none fits. Looks first near what the texts alone would need."""
        limit, most = self.max_prompt_tokens, len(history)
        turns = min(most, self._guess(history, customer_message))
        ids = self._ids(history, customer_message, turns)
        step, above = 1, most + 1
        while len(ids) > limit and turns:
            above, turns = turns, max(0, turns - step)
            step, ids = 2 * step, self._ids(history, customer_message, turns)
        step = 1
        while turns + 1 < above and len(ids) <= limit:
            other = min(turns + step, above - 1)
            longer = self._ids(history, customer_message, other)
            if len(longer) <= limit:
                turns, ids, step = other, longer, 2 * step
            else:
                above, step = other, 1
        return turns, ids

    def _guess(self, history: Sequence[Turn], customer_message: str) -> int:
        """Turns whose texts alone fit; what is older than these is not looked at."""
        total, following = 0, customer_message
        for turns, turn in enumerate(reversed(history)):
            parts = [*self._user(turn, following), *self._assistant(turn.suggestion)]
            total += sum(self._codec.count(part) if isinstance(part, str) else 1 for part in parts)
            if total > self.max_prompt_tokens:
                return turns
            following = turn.customer_message
        return len(history)

    def _length(self, history: Sequence[Turn], customer_message: str, turns: int) -> int:
        return len(self._ids(history, customer_message, turns))

    def _user(self, previous: Turn | None, customer_message: str) -> list[Part]:
        text = escape(customer_message)
        if previous is None:
            return [self._bounded(text)]
        return [*self._markers[REACTION_MARKERS[previous.reaction]], self._bounded(_sent_note(previous) + text)]

    def _assistant(self, suggestion: str | None) -> Sequence[Part]:
        return self._markers[ABSTAIN] if suggestion is None else [self._bounded(escape(suggestion))]

    def _bounded(self, text: str) -> str:
        """The text. Of one that fits into no prompt only a beginning, which does not fit either: to read a megabyte to
        its end may take seconds."""
        size = _CHARACTERS * self.max_prompt_tokens
        while size < len(text):
            if self._codec.count(text[:size]) > 2 * self.max_prompt_tokens + _SPLIT_WORD:
                return text[:size]
            size *= 4
        return text

    def _make_skeleton(self, turns: int) -> tuple[list[tuple[Part, ...]], list[Trim | None]]:
        """The template's own text around the messages of a history of `turns` turns, and what it strips from them."""
        slots = self._system + 2 * turns + 1
        trims = self._template.trims(slots)
        return (
            [self._codec.trusted(piece) for piece in self._template.pieces(slots, True)],
            [None if trim == (str, str) else trim for trim in trims],
        )

    def _check_reading(self) -> None:
        """Holds the tokenizer to what everything rests on: a state is its own tokens, and no text is lost."""
        plain = [probe for probe in _PROBES if all(isinstance(part, str) for part in self._codec.trusted(probe))]
        turns = [Turn(text, f" {text}\n", "edited", text[::-1]) for text in plain]
        turns += [Turn("1", None, "rejected", "a"), Turn("\n2 ", "c", "accepted", "c")]
        for history in ([], turns):
            ids = self._ids(history, " hello ", len(history))
            if ids != self._template.ids(self.messages(history, " hello ")):
                raise BadDataError(
                    "the tokenizer's chat template makes other tokens of a chat than of its messages",
                    "Choose a base with an ordinary chat template, which prints each message as it is.",
                )
        for probe in _PROBES:
            text = self.decode(self.response(probe))[0] or ""
            if _form(text) != _form(probe):
                raise BadDataError(
                    f"the tokenizer reads {probe!r} back as {text!r}",
                    "Choose a base whose tokenizer loses no text: a byte-level one, or one with byte fallback.",
                )


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


def _step(turns: int) -> int:
    """Of how many turns a multiple is dropped where so many fit: a power of 2, at most half of them, the same for
    numbers that differ little."""
    return 1 << max(0, (turns // 2).bit_length() - 1)


def _is_short(history: Sequence[Turn], most: int) -> bool:
    """Whether all that was said has at most so many characters."""
    for turn in history:
        most -= len(turn.customer_message) + len(turn.suggestion or "") + len(turn.sent_message)
        if most < 0:
            return False
    return True


def _trimmed(content: Sequence[Part], trim: Trim) -> list[Part]:
    """A message without the white space around it that its template strips."""
    parts, (left, right) = list(content), trim
    if parts and isinstance(parts[0], str):
        parts[0] = left(parts[0])
    if parts and isinstance(parts[-1], str):
        parts[-1] = right(parts[-1])
    return parts


def _form(text: str) -> str:
    """What the forms of a text that a tokenizer may choose from have in common."""
    return unicodedata.normalize("NFKC", text).casefold()


def _as_shown(history: Sequence[Turn]) -> list[Turn]:
    """The turns as the business met them: what it never saw is no suggestion, and has no reaction."""
    return [turn.as_shown() for turn in history]


def _sent_note(previous: Turn) -> str:
    """What follows the reaction's marker: the message sent instead, if there was one, and a line break."""
    sent = "" if previous.reaction == "accepted" or not previous.sent_message else f" {escape(previous.sent_message)}"
    return f"{sent}\n"


def _user_text(previous: Turn | None, customer_message: str) -> str:
    text = escape(customer_message)
    return text if previous is None else REACTION_MARKERS[previous.reaction] + _sent_note(previous) + text
