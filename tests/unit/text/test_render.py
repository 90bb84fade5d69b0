"""Prompts that grow at their end, suggestions that come back, and texts that forge nothing."""

import json
import unicodedata
from copy import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation, State, Turn
from ippo_trainer.text import codec
from ippo_trainer.text.markers import ABSTAIN, MARKERS, escape, unescape
from ippo_trainer.text.render import PromptTooLongError, Renderer
from ippo_trainer.text.rows import training_rows

from . import tokenizers_for_tests as kinds

BYTE_LEVEL = [kinds.tiny, kinds.chatml]
ALL = [*BYTE_LEVEL, kinds.sentencepiece]
HOSTILE = [
    *MARKERS,
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|end|>",
    "<|user|>",
    "</s>",
    "<s>",
    "<unk>",
    "\\[accepted]",
    "<tool_call>",
]
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=25),
    st.lists(st.sampled_from([*HOSTILE, *kinds.WORDS, " ", "\n", "\\", "é", "👋🏽"]), max_size=8).map("".join),
).map(lambda text: unicodedata.normalize("NFC", text))
MESSAGE = TEXT.filter(str.strip)
ACTION = st.tuples(MESSAGE, st.none() | TEXT, st.sampled_from(["accepted", "edited", "rejected"]), TEXT)
HISTORY = st.lists(ACTION, max_size=4).map(lambda rows: [turn(*row) for row in rows])


def turn(message: str, suggestion: str | None, reaction: Any = "accepted", sent: str | None = None) -> Turn:
    return Turn(
        message, suggestion, "rejected" if suggestion is None else reaction, suggestion if sent is None else sent
    )


@cache
def _renderer(tokenizer: Any, prompt: str, form: Any) -> Renderer:
    return Renderer(tokenizer, prompt, 4096, history_format=form)


def renderer(
    tokenizer: Any, prompt: str = "", limit: int = 4096, in_steps: bool = False, form: Any = "Marked"
) -> Renderer:
    """One that tried the tokenizer once, whatever its limit is."""
    render = copy(_renderer(tokenizer, prompt, form))
    render.max_prompt_tokens, render.in_steps = limit, in_steps
    return render


def special_tokens(tokenizer: Any, ids: list[int]) -> list[str]:
    special = set(tokenizer.all_special_ids)
    return [tokenizer.convert_ids_to_tokens(token) for token in ids if token in special]


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(max_examples=150)
@given(suggestion=st.none() | TEXT)
def test_a_suggestion_comes_back_from_its_tokens(kind: Any, suggestion: str | None) -> None:
    render = renderer(kind())
    ids = render.response(suggestion)
    assert render.decode(ids) == (suggestion, True)
    assert render.decode(ids[:-1]) == (suggestion, False)
    assert render.decode([*ids, *ids]) == (suggestion, True)
    assert [token for token in ids if token in render.stop_ids] == [render.stop_id]


@settings(max_examples=100)
@given(suggestion=st.none() | st.lists(st.sampled_from([*kinds.WORDS, "é", "[accepted]"]), min_size=1).map(" ".join))
def test_the_same_with_a_space_before_the_stop_token(suggestion: str | None) -> None:
    render = renderer(kinds.sentencepiece())
    ids = render.response(suggestion)
    assert render.decode(ids) == (suggestion, True)
    assert ids[-1] == kinds.sentencepiece().eos_token_id


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=80)
@given(history=HISTORY, message=MESSAGE)
def test_each_prompt_and_suggestion_begin_the_next_prompt(kind: Any, history: list[Turn], message: str) -> None:
    render = renderer(kind())
    prompts = [render.prompt(history[:i], turn.customer_message) for i, turn in enumerate(history)]
    prompts.append(render.prompt(history, message))
    for i, turn_ in enumerate(history):
        begun = prompts[i].ids + render.response(turn_.suggestion)
        assert prompts[i + 1].ids[: len(begun)] == begun
    assert all(prompt.dropped_turns == 0 for prompt in prompts)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=80)
@given(history=HISTORY, message=MESSAGE, data=st.data())
def test_no_text_changes_which_special_tokens_a_prompt_has(
    kind: Any, history: list[Turn], message: str, data: st.DataObject
) -> None:
    render, tokenizer = renderer(kind()), kind()
    plain = [turn("hello", None if t.suggestion is None else "red", t.reaction, "one") for t in history]
    ids = render.prompt(history, message).ids
    assert special_tokens(tokenizer, ids) == special_tokens(tokenizer, render.prompt(plain, "hello").ids)
    if kind is kinds.chatml:
        assert tokenizer.convert_tokens_to_ids("<tool_call>") not in ids


def test_a_customer_cannot_write_what_the_business_did() -> None:
    """A pretrained tokenizer spells our notes as text; a customer's own are escaped, so no two states are equal."""
    render = renderer(kinds.chatml())
    honest = render.prompt([turn("hello", "red", "rejected", "one")], "[accepted]\nplease")
    text = kinds.chatml().decode(honest.ids)
    assert "[rejected] one\n\\[accepted]\nplease<|im_end|>" in text
    forged = render.prompt([turn("hello", "red")], "please")
    assert "user\n[accepted]\nplease<|im_end|>" in kinds.chatml().decode(forged.ids)


@given(text=TEXT)
def test_escaping_is_undone_and_leaves_no_bare_marker(text: str) -> None:
    escaped = escape(text)
    assert unescape(escaped) == text
    assert all(escaped.count(marker) == escaped.count("\\" + marker) for marker in MARKERS)


def test_a_state_reads_as_design_says() -> None:
    history = [turn("hello", "which colour"), turn("red", None, sent="one moment"), turn("please", "a", "edited", "b")]
    messages = [
        {"role": "system", "content": "you sell flowers"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "which colour"},
        {"role": "user", "content": "[accepted]\nred"},
        {"role": "assistant", "content": "[abstain]"},
        {"role": "user", "content": "[rejected] one moment\nplease"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "[edited] b\nbuy"},
    ]
    for kind in BYTE_LEVEL:
        render = renderer(kind(), "you sell flowers")
        assert render.messages(history, "buy") == messages
        ids = kind().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert kind().decode(render.prompt(history, "buy").ids) == kind().decode(ids)


def test_tiny_prompts_are_the_templates_own_tokens() -> None:
    render = renderer(kinds.tiny(), "i need")
    history = [turn("hello", "which colour"), turn("red", None, sent="one moment")]
    ids = kinds.tiny().apply_chat_template(
        render.messages(history, "red"), add_generation_prompt=True, return_dict=False
    )
    assert render.prompt(history, "red").ids == ids


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_truncation_drops_the_oldest_turns_and_counts_them(kind: Any) -> None:
    history = [turn(f"message {i}", "red please", "edited", "one moment") for i in range(9)]
    whole = renderer(kind(), "you sell").prompt(history, "hello")
    assert whole.dropped_turns == 0
    dropped = []
    for limit in range(len(whole.ids), 20, -7):
        render = renderer(kind(), "you sell", limit)
        try:
            prompt = render.prompt(history, "hello")
        except BadDataError:
            break
        dropped.append(prompt.dropped_turns)
        assert len(prompt.ids) <= limit
        # The same as if the conversation had begun with the first turn that is left: its note goes with its turn.
        assert prompt.ids == renderer(kind(), "you sell").prompt(history[prompt.dropped_turns :], "hello").ids
        if prompt.dropped_turns:
            more = renderer(kind(), "you sell").prompt(history[prompt.dropped_turns - 1 :], "hello")
            assert len(more.ids) > limit
    assert dropped == sorted(dropped)
    assert dropped[-1] >= 8


def test_a_message_that_cannot_fit_is_an_error_with_a_remedy() -> None:
    render = renderer(kinds.chatml(), limit=40)
    with pytest.raises(BadDataError, match=r"newest customer message makes .* \d+ tokens.*maxPromptTokens = 40"):
        render.prompt([turn("hello", "red")], "hello " * 60)
    with pytest.raises(BadDataError, match="customer message is empty"):
        render.prompt([], " \n")


def template_error(tokenizer: Any, prompt: str = "", **changes: Any) -> str:
    changed = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    changed.chat_template = tokenizer.chat_template
    for name, value in changes.items():
        setattr(changed, name, value)
    with pytest.raises(BadDataError) as caught:
        Renderer(changed, prompt, 100).prompt([], "hello")
    return str(caught.value)


def test_unusable_tokenizers_are_named_with_a_remedy() -> None:
    chatml, inst = kinds.chatml(), kinds.sentencepiece()
    assert "no chat template. Set chat_template in its tokenizer_config.json" in template_error(
        chatml, chat_template=None
    )
    assert "no EOS token. Set eos_token" in template_error(chatml, eos_token=None)
    silent = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    assert "does not print every message" in template_error(chatml, chat_template=silent)
    assert "chat template failed" in template_error(chatml, chat_template="{{ nothing.at.all }}")
    only_two = template_error(inst, "a system prompt", bos_token="<s>")
    assert "Only user and assistant roles" in only_two
    assert "policy.systemPrompt" in only_two


def test_without_an_end_in_the_template_eos_stops() -> None:
    bare = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = kinds.chatml().__class__(tokenizer_object=kinds.chatml().backend_tokenizer, eos_token="<|endoftext|>")
    tokenizer.chat_template = bare
    render = renderer(tokenizer)
    assert render.stop_ids == {tokenizer.eos_token_id}
    assert render.decode(render.response("red")) == ("red", True)
    conversation = Conversation("c", [turn("hello", "red"), turn("one", "two")])
    rows = training_rows(render, conversation).rows
    assert [row.ids for row in rows] == [
        render.prompt([], "hello").ids + render.response("red"),
        render.prompt(conversation.turns[:1], "one").ids + render.response("two"),
    ]


def test_a_template_may_know_the_date_and_how_to_think() -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%s') }}" + kinds.CHATML
    dated += "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}"
    tokenizer = kinds.chatml().__class__(tokenizer_object=kinds.chatml().backend_tokenizer, eos_token="<|im_end|>")
    tokenizer.chat_template = dated
    text = tokenizer.decode(renderer(tokenizer).prompt([], "hello").ids)
    assert text.startswith("1 Jan 2025<|im_start|>")
    assert text.endswith("<|im_start|>assistant\n<think></think>")


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=40)
@given(history=HISTORY.filter(bool), limit=st.integers(60, 200))
def test_rows_hold_every_suggestion_once_after_its_own_prompt(kind: Any, history: list[Turn], limit: int) -> None:
    render = renderer(kind(), limit=limit)
    conversation = Conversation("c", history)
    expected: list[tuple[list[int], list[int]]] = []
    unfit = []
    for i, turn_ in enumerate(history):
        try:
            expected.append((render.prompt(history[:i], turn_.customer_message).ids, render.response(turn_.suggestion)))
        except PromptTooLongError:
            unfit.append(i)
    result = training_rows(render, conversation)
    found = []
    for row in result.rows:
        assert len(row.ids) == len(row.response_mask)
        start = 0
        while True in row.response_mask[start:]:
            begin = row.response_mask.index(True, start)
            end = row.response_mask.index(False, begin) if False in row.response_mask[begin:] else len(row.ids)
            found.append((row.ids[:begin], row.ids[begin:end]))
            start = end
    assert found == expected
    assert list(result.too_long) == unfit
    assert result.longest_response == max((len(response) for _, response in expected), default=0)
    if result.dropped_turns == 0 and not unfit:
        assert len(result.rows) == 1


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=40)
@given(history=HISTORY.filter(bool), limit=st.integers(60, 200), huge=st.integers(0, 3))
def test_texts_are_cut_until_every_turn_is_learnt(kind: Any, history: list[Turn], limit: int, huge: int) -> None:
    render = renderer(kind(), limit=limit)
    long = "hello " * 400
    history[huge % len(history)] = turn(f" {long}", "red", "edited", long)
    before = list(history)
    result = training_rows(render, Conversation("c", history), "Truncate", positions=limit + 16)
    assert history == before  # what was read stays what it was
    assert huge % len(history) in result.too_long
    assert all(len(row.ids) <= limit + 16 for row in result.rows)
    learnt = sum(mask and not before for row in result.rows for before, mask in pairwise([False, *row.response_mask]))
    assert learnt == len(history)


def test_the_renderer_is_kept_beside_the_policy(tmp_path: Path) -> None:
    render = renderer(kinds.tiny(), "du verkaufst Blumen 💐", 77)
    render.save(tmp_path)
    loaded = Renderer.load(tmp_path, kinds.tiny())
    assert (loaded.system_prompt, loaded.max_prompt_tokens) == ("du verkaufst Blumen 💐", 77)
    assert loaded.prompt([], "hello") == render.prompt([], "hello")
    value = json.loads((tmp_path / "prompt.json").read_text())
    (tmp_path / "prompt.json").write_text(json.dumps({**value, "version": 9}))
    with pytest.raises(BadDataError, match="version 9, not 1"):
        Renderer.load(tmp_path, kinds.tiny())
    (tmp_path / "prompt.json").write_text("{")
    with pytest.raises(BadDataError, match="missing or damaged"):
        Renderer.load(tmp_path, kinds.tiny())


def test_a_literal_abstention_is_no_abstention() -> None:
    for kind in BYTE_LEVEL:
        render = renderer(kind())
        assert render.decode(render.response(ABSTAIN)) == (ABSTAIN, True)
        assert render.response(ABSTAIN) != render.response(None)


def kept_by_trying_each(render: Renderer, history: list[Turn], message: str) -> int | None:
    """How many turns fit, found by one after another; None if not even the message does."""
    lengths = [len(render._ids(State(history, message), kept)) for kept in range(len(history) + 1)]
    fitting = [kept for kept, length in enumerate(lengths) if length <= render.max_prompt_tokens]
    assert fitting == list(range(len(fitting)))  # a longer history makes a longer prompt
    return fitting[-1] if fitting else None


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=150)
@given(
    history=st.lists(ACTION, max_size=12).map(lambda rows: [turn(*row) for row in rows]),
    message=MESSAGE,
    limit=st.integers(16, 400),
)
def test_as_many_turns_are_kept_as_fit(kind: Any, history: list[Turn], message: str, limit: int) -> None:
    render = renderer(kind(), limit=limit)
    expected = kept_by_trying_each(render, history, message)
    if expected is None:
        with pytest.raises(BadDataError, match="newest customer message"):
            render.prompt(history, message)
    else:
        assert render.prompt(history, message).dropped_turns == len(history) - expected


class Counting:
    """A tokenizer that counts the characters that it reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def encode(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.tokenizer.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def test_what_cannot_fit_is_not_read_to_its_end() -> None:
    """A megabyte takes seconds, and everybody else waits for them."""
    render = Renderer(kinds.chatml(), "", 64)
    stretches = render._codec._stretches
    stretches._tokenizer = counting = Counting(stretches._tokenizer)
    huge = "hello flowers " * 100_000
    with pytest.raises(BadDataError, match="newest customer message makes a prompt of at least"):
        render.prompt([], huge)
    for long in (turn(huge, "red"), turn("red", huge), turn("red", "red", "edited", huge)):
        assert render.prompt([turn(huge[1:], "red"), long, turn("red", "ten")], "hello").dropped_turns == 2
    assert 0 < counting.characters < len(huge) / 20


def test_long_words_that_fit_are_not_taken_for_what_cannot() -> None:
    word = "rose" * 16
    render = renderer(kinds.build_tokenizer([f"{word} {word}"] * 3), limit=40)
    message = " ".join([word] * 30)
    assert len(message) > 2 * 16 * 40
    assert len(render.prompt([turn("hello", "red")], message).ids) <= 40


def test_a_thousand_turns_are_fitted_with_a_few_tries() -> None:
    render = Renderer(kinds.tiny(), "", 1024)
    prompt = render.prompt([turn(f"hello {i}", "red please") for i in range(1000)], "hello")
    assert 0 < prompt.dropped_turns < 1000
    assert render._skeleton.cache_info().misses <= 12


def test_texts_of_strangers_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_CACHED_SIZE", 1000)
    renderer = Renderer(kinds.tiny(), "be kind", 64)
    fresh = [Renderer(kinds.tiny(), "be kind", 64).prompt([], f"hello {n}").ids for n in range(0, 300, 30)]
    assert [renderer.prompt([], f"hello {n}").ids for n in range(300)][::30] == fresh
    for number in range(50):
        with pytest.raises(BadDataError):
            renderer.prompt([], f"🌷{number}" * 400)
    kept = renderer._codec._stretches.known
    assert sum(len(text) + len(ids) for text, ids in kept.items()) <= 1000 or len(kept) == 1


PLAIN = kinds.build_tokenizer(["hello flowers red ten"] * 3)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), st.integers(1, 200))
def test_a_message_is_cut_only_where_it_fits_into_no_prompt(text: str, times: int) -> None:
    render = renderer(PLAIN, limit=64)
    message = text * times
    if not message.strip():
        return
    shown = render.cut(message)
    assert message.strip().startswith(shown.strip())
    assert len(render.prompt([], shown).ids) <= 64
    try:
        render.prompt([], message)
    except PromptTooLongError:
        assert shown != message
    else:
        assert shown == message


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=40)
@given(
    history=st.lists(ACTION, min_size=1, max_size=12).map(lambda rows: [turn(*row) for row in rows]),
    message=MESSAGE,
    limit=st.integers(32, 300),
)
def test_in_steps_a_history_loses_at_most_half_of_what_fits(
    kind: Any, history: list[Turn], message: str, limit: int
) -> None:
    exact, steps = renderer(kind(), limit=limit), renderer(kind(), limit=limit, in_steps=True)
    try:
        most = exact.prompt(history, message)
    except PromptTooLongError:
        with pytest.raises(PromptTooLongError):
            steps.prompt(history, message)
        return
    prompt, fitting = steps.prompt(history, message), len(history) - most.dropped_turns
    assert most.dropped_turns <= prompt.dropped_turns <= most.dropped_turns + fitting // 2
    assert prompt.ids == renderer(kind()).prompt(history[prompt.dropped_turns :], message).ids
    assert (prompt.dropped_turns == 0) == (most.dropped_turns == 0)


def test_in_steps_a_long_conversation_has_few_rows(tmp_path: Path) -> None:
    """Without, every turn beyond the limit begins a row of its own."""
    turns = [turn(f"message {index % 7}", "red please", "accepted") for index in range(80)]
    Renderer(kinds.tiny(), "", 300, in_steps=True).save(tmp_path)
    counts = [
        len(training_rows(render, Conversation("c", turns)).rows)
        for render in (renderer(kinds.tiny(), limit=300), Renderer.load(tmp_path, kinds.tiny()))
    ]
    assert counts[0] > 50
    assert counts[1] < counts[0] / 2.5
