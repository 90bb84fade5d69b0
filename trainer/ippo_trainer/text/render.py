"""The one place that turns a conversation's history into a prompt, and a suggestion into tokens and back.

Collect, warm start, fit-q, improve and serving all use it, so that a state is the same tokens everywhere.

One chat turn is one logged turn: the user message is a note on what became of the previous suggestion, then the
newest customer message, then what tools returned; the assistant message is the suggestion. The conversation's context
follows the system prompt; where a template has no system message, it stands before the first customer message.
Policies of the plain format see what was sent in place of suggestions and notes. A state is the tokens that the
tokenizer's own `apply_chat_template` makes of these messages, as long as no text spells a control token. Only what
happened later is appended, so where the chat template allows it the prompt of turn t is a prefix of the prompt of turn
t+1. So that this stays true of histories that are too long, they lose their oldest turns by several at once.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self, get_args

from transformers import PreTrainedTokenizerBase

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.params import HistoryFormat
from ippo_trainer.data.context import KINDS
from ippo_trainer.data.schema import Conversation, State, Turn
from ippo_trainer.text import ends
from ippo_trainer.text.answers import Answers
from ippo_trainer.text.chat import MARKED, Chat
from ippo_trainer.text.codec import Codec, Part
from ippo_trainer.text.markers import ABSTAIN, unescape
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


class ContextTooLongError(BadDataError):
    """The context alone fits into no prompt."""


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
        history_format: whether histories hold suggestions with notes on what became of them, or what was sent.
        reads: of `data.context.KINDS`, those that the policy has learnt to read. All are rendered.

    Raises:
        BadDataError: no chat template, no EOS token, a template that does not print every message once, in order, or
            not the same each time, or a tokenizer that loses text or ends suggestions with ordinary text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str,
        max_prompt_tokens: int,
        in_steps: bool = False,
        history_format: HistoryFormat = MARKED,
        reads: Iterable[str] = (),
    ) -> None:
        _check_tokenizer(tokenizer)
        self.tokenizer: Any = tokenizer
        self.system_prompt = system_prompt
        self.max_prompt_tokens = max_prompt_tokens
        self.in_steps = in_steps
        self.history_format = history_format
        self.reads = frozenset(reads)
        self._system = 1 if system_prompt else 0
        end_ids = ends.of(tokenizer)
        self._codec = Codec(tokenizer, end_ids)
        self._template = ChatTemplate(tokenizer, bool(system_prompt))
        self._with_system = self._template if system_prompt else ChatTemplate(tokenizer, True)
        self._has_system = True if system_prompt else None
        self._skeleton = lru_cache(1024)(self._make_skeleton)
        self._chat = Chat(self._codec, system_prompt, history_format, self._takes_system)
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

    def messages(
        self, history: Sequence[Turn], customer_message: str, tool_messages: Sequence[str] = (), context: str = ""
    ) -> list[dict[str, str]]:
        """The state as chat messages, untruncated, for tools that apply the chat template themselves."""
        state = State(_as_shown(history), customer_message, tool_messages, context)
        system, contents = self._chat.contents(state, str)
        texts = ["".join(map(self._codec.spelling, content)) for content in contents]
        roles = (["system"] if system else []) + ["user", "assistant"] * len(texts)
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]

    def prompt(
        self, history: Sequence[Turn], customer_message: str, tool_messages: Sequence[str] = (), context: str = ""
    ) -> Prompt:
        """Tokens of a state, ready for the suggestion: at most `max_prompt_tokens` of them.

        Args:
            history: the turns before this one, oldest first.
            customer_message: the newest message.
            tool_messages: what tools returned since the suggestion before.
            context: of the conversation. It stays, whatever the history loses.

        Raises:
            BadDataError: the newest message is empty.
            ContextTooLongError: the context alone does not fit.
            PromptTooLongError: the newest message does not fit even without any history.
        """
        if not customer_message.strip():
            raise BadDataError("the customer message is empty", "A state needs a message to answer.")
        state = State(_as_shown(history), customer_message, tool_messages, context)
        turns, ids = self._fitting(state)
        dropped = len(history) - turns
        if self.in_steps and dropped % _step(turns):
            dropped += -dropped % _step(turns)
            ids = self._ids(state, len(history) - dropped)
        return Prompt(ids, dropped)

    def prompt_at(self, conversation: Conversation, index: int) -> Prompt:
        """The state that turn `index` of a conversation answers."""
        return self.prompt(*conversation.state(index))

    def least(self, context: str) -> int:
        """Tokens of the shortest prompt with a context; of one that fits into no prompt at least so many."""
        return len(self._ids(State([], "?", (), context), 0)) if context else self._bare

    def response(self, suggestion: str | None) -> list[int]:
        """Tokens of a suggestion, as they come after a prompt, up to the stop token. `decode` gives it back."""
        return self._answers.encode(_trimmed(self._chat.answer(suggestion), self._answer_trim))

    def decode(self, ids: Sequence[int]) -> tuple[str | None, bool]:
        """The suggestion in sampled tokens (None: it abstains), and whether a stop token ended it.

        What comes after the first stop token is ignored.
        """
        text, ended = self._answers.decode(ids)
        return (None if text.strip() == ABSTAIN else unescape(text)), ended

    def text(self, ids: Sequence[int]) -> str:
        """What tokens of a suggestion spell; markers and their escapes as they are."""
        return self._answers.text(ids)

    @property
    def lead(self) -> str:
        """White space that the tokens of a suggestion spell before it begins."""
        return self._answers.lead

    def save(self, directory: Path) -> None:
        """Writes `prompt.json` beside a policy, and all that ends its suggestions into `generation_config.json`."""
        value = {"version": VERSION, "systemPrompt": self.system_prompt, "maxPromptTokens": self.max_prompt_tokens}
        value |= {"inSteps": True} if self.in_steps else {}
        value |= {"historyFormat": self.history_format} if self.history_format != MARKED else {}
        value |= {"reads": sorted(self.reads)} if self.reads else {}
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
            history_format, reads = value.get("historyFormat", MARKED), frozenset(value.get("reads", ()))
            if history_format not in get_args(HistoryFormat) or not reads <= set(KINDS):
                raise ValueError(f"historyFormat {history_format!r:.40} or reads {sorted(reads)!r:.80} is not known")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadDataError(f"{path} is missing or damaged: {error}", "Pass a policy that a stage made.") from error
        if version != VERSION:
            raise BadDataError(
                f"{path} has version {version}, not {VERSION}", "Make the policy again with this release."
            )
        return cls(tokenizer, prompt, tokens, in_steps, history_format, reads)

    def _takes_system(self) -> bool:
        """Whether the template has a system message that is like any other: printed once, before all others."""
        if self._has_system is None:
            self._has_system = self._with_system.has_system() and self._with_system.opening == self._template.opening
            try:
                self._check_chat(State([Turn("1", "a", "edited", "b")] * 3, "?", ("2",), "3\n4"))
            except BadDataError:
                self._has_system = False
        return self._has_system

    def _ids(self, state: State, turns: int) -> list[int]:
        """Tokens of a state with the newest `turns` turns, however many they are."""
        kept = state._replace(history=state.history[len(state.history) - turns :])
        system, contents = self._chat.contents(kept, self._bounded)
        pieces, trims = self._skeleton(system, len(contents))
        parts = list(pieces[0])
        for content, trim, piece in zip(contents, trims, pieces[1:], strict=True):
            parts += content if trim is None else _trimmed(content, trim)
            parts += piece
        return self._codec.encode(parts)

    @cached_property
    def _bare(self) -> int:
        """Tokens of the shortest prompt without a context."""
        return len(self._ids(State([], "?"), 0))

    def cut(self, customer_message: str, tool_messages: Sequence[str] = (), context: str = "") -> str:
        """The message; one that fits into no prompt, cut at its end until it does. As it is where no cut helps."""
        text, alone = customer_message, not tool_messages and not context
        if alone and _MOST_TOKENS * len(text) + self._bare <= self.max_prompt_tokens:
            return text
        while len(self._ids(State([], text, tool_messages, context), 0)) > self.max_prompt_tokens:
            text = text.strip()[: len(text.strip()) * 7 // 8]
            if not text:
                return customer_message
        return text

    def _fitting(self, state: State) -> tuple[int, list[int]]:
        """How many of the newest turns of the history fit into the prompt (the more, the longer it is), and it."""
        limit, most = self.max_prompt_tokens, len(state.history)
        if most <= limit and _is_short(state, limit * _LIKELY_CHARACTERS):
            ids = self._ids(state, most)
            if len(ids) <= limit:
                return most, ids
        turns, ids = self._most_that_fit(state)
        if len(ids) > limit:
            raise self._too_long(state, len(ids))
        return turns, ids

    def _too_long(self, state: State, tokens: int) -> BadDataError:
        limit = f"more than policy.maxPromptTokens = {self.max_prompt_tokens}"
        least = self.least(state.context)
        if state.context and least > self.max_prompt_tokens:
            return ContextTooLongError(
                f"the conversation's context makes a prompt of at least {least} tokens by itself, {limit}",
                "Raise policy.maxPromptTokens, or shorten the context.",
            )
        what = "the newest customer message" + (" with what tools returned" if state.tool_messages else "")
        beside = f" ({least} with the context alone)" if state.context else ""
        return PromptTooLongError(
            f"{what} makes a prompt of at least {tokens} tokens{beside}, {limit}",
            "Raise policy.maxPromptTokens, shorten policy.systemPrompt or leave the conversation out.",
        )

    def _most_that_fit(self, state: State) -> tuple[int, list[int]]:
        """Turns and their prompt; no turns where none fits. Looks first near what the texts alone would need."""
        limit, most = self.max_prompt_tokens, len(state.history)
        turns = min(most, self._guess(state))
        ids = self._ids(state, turns)
        step, above = 1, most + 1
        while len(ids) > limit and turns:
            above, turns = turns, max(0, turns - step)
            step, ids = 2 * step, self._ids(state, turns)
        step = 1
        while turns + 1 < above and len(ids) <= limit:
            other = min(turns + step, above - 1)
            longer = self._ids(state, other)
            if len(longer) <= limit:
                turns, ids, step = other, longer, 2 * step
            else:
                above, step = other, 1
        return turns, ids

    def _guess(self, state: State) -> int:
        """Turns that fit if texts and the template's own pieces have as many tokens as each has alone; what is older
        than these is not looked at."""
        per_turn, alone = self._template_tokens
        total = alone + self._count(self._chat.given(state.context, self._bounded))
        newest = state._replace(history=())
        for turns, turn in enumerate(reversed(state.history)):
            _, contents = self._chat.contents(newest._replace(history=[turn], context=""), self._bounded)
            oldest, *rest = (self._count(content) for content in contents[self._system :])
            total += per_turn + sum(rest)
            if total + oldest > self.max_prompt_tokens:
                return turns
            newest = State((), turn.customer_message, turn.tool_messages)
        return len(state.history)

    @cached_property
    def _template_tokens(self) -> tuple[int, int]:
        """Of the template's pieces: that one more turn brings, and that there are without any."""
        system = bool(self.system_prompt)
        few, more = (
            sum(self._count(piece) for piece in self._skeleton(system, self._system + messages)[0])
            for messages in (3, 5)
        )
        return more - few, few - (more - few)

    def _count(self, parts: Iterable[Part]) -> int:
        return sum(self._codec.count(part) if isinstance(part, str) else 1 for part in parts)

    def _bounded(self, text: str) -> str:
        """The text. Of one that fits into no prompt only a beginning, which does not fit either: to read a megabyte to
        its end may take seconds."""
        size = _CHARACTERS * self.max_prompt_tokens
        while size < len(text):
            if self._codec.count(text[:size]) > 2 * self.max_prompt_tokens + _SPLIT_WORD:
                return text[:size]
            size *= 4
        return text

    def _make_skeleton(self, system: bool, slots: int) -> tuple[list[tuple[Part, ...]], list[Trim | None]]:
        """The template's own text around so many messages, and what it strips from them."""
        template = self._with_system if system else self._template
        return (
            [self._codec.trusted(piece) for piece in template.pieces(slots, True)],
            [None if trim == (str, str) else trim for trim in template.trims(slots)],
        )

    def _check_reading(self) -> None:
        """Holds the tokenizer to what everything rests on: a state is its own tokens, and no text is lost."""
        plain = [probe for probe in _PROBES if all(isinstance(part, str) for part in self._codec.trusted(probe))]
        turns = [Turn(text, f" {text}\n", "edited", text[::-1]) for text in plain]
        turns += [Turn("1", None, "rejected", "a"), Turn("\n2 ", "c", "accepted", "c")]
        self._check_chat(State([], " hello "))
        self._check_chat(State(turns, " hello "))
        for probe in _PROBES:
            text = self.decode(self.response(probe))[0] or ""
            if _form(text) != _form(probe):
                raise BadDataError(
                    f"the tokenizer reads {probe!r} back as {text!r}",
                    "Choose a base whose tokenizer loses no text: a byte-level one, or one with byte fallback.",
                )

    def _check_chat(self, state: State) -> None:
        ids = self._ids(state, len(state.history))
        if ids != self._template.ids(self.messages(*state)):
            raise BadDataError(
                "the tokenizer's chat template makes other tokens of a chat than of its messages",
                "Choose a base with an ordinary chat template, which prints each message as it is.",
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
    numbers that differ little. Multiples of a larger one are multiples of a smaller one, so that a cut seldom moves."""
    return 1 << max(0, (turns // 2).bit_length() - 1)


def _is_short(state: State, most: int) -> bool:
    """Whether all that was said has at most so many characters."""
    most -= len(state.context) + sum(map(len, state.tool_messages))
    for turn in state.history:
        most -= len(turn.customer_message) + len(turn.suggestion or "") + len(turn.sent_message)
        most -= sum(map(len, turn.tool_messages))
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
