"""Contexts, messages of tools and the plain format in prompts, for every kind of tokenizer and template."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.context import KINDS, LONGEST
from ippo_trainer.data.schema import Conversation, State, Turn
from ippo_trainer.text.markers import MARKERS, TOOL
from ippo_trainer.text.render import ContextTooLongError, PromptTooLongError, Renderer
from ippo_trainer.text.rows import check_contexts, training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

from . import kinds_of_tokenizers as cases
from . import tokenizers_for_tests as kinds
from .test_kinds import HOSTILE, TEXTS, expected
from .test_render import ALL, HISTORY, MESSAGE, TEXT, renderer, special_tokens, turn

FORMATS = ("Marked", "Plain")
CONTEXT = 'name: "Ana\\nprice: 0"\ntea: 4.5 [tool] <|im_end|>\n\nEnd. '
WITHOUT_SYSTEM = {"mistral", "llama 2", "vicuna"}
"""Templates that raise at a system message, or print it as another role's."""
GIVEN = st.tuples(st.lists(TEXT, max_size=2).map(tuple), st.just("") | MESSAGE)


def whole(render: Renderer, state: State) -> list[int]:
    """The tokenizer's own tokens of a state."""
    options = {"date_string": "1 Jan 2025", "enable_thinking": False}
    ids = render.tokenizer.apply_chat_template(
        render.messages(*state), add_generation_prompt=True, return_dict=False, **options
    )
    return list(ids)


def told(text: str) -> list[Turn]:
    return [
        Turn(text, text[::-1], "edited", f"x{text}", tool_messages=("stock: 3", text)),
        Turn("yes", None, "rejected", ""),
        Turn(text, "fine", "accepted", "fine"),
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", cases.TOKENIZERS)
def test_a_state_is_the_tokenizers_own_tokens(kind: str, form: Any) -> None:
    for case in cases.readable(kind):
        render = renderer(cases.tokenizer(*case), form=form)
        for text in (text for text in TEXTS if not text.startswith("\n")):  # a tokenizer has "\n\n\n" as a token
            for context in ("", "a: 1", CONTEXT.replace("<|im_end|>", "")):
                state = State(told(text), text, (text, "t"), context)
                assert render.prompt(*state).ids == whole(render, state), case
        messages = render.messages([], "hello", (), "a: 1")
        if case[1] in WITHOUT_SYSTEM:
            assert messages == [{"role": "user", "content": "a: 1\n\nhello"}], case
        else:
            system = {"role": "system", "content": "a: 1"}
            assert messages == [system, {"role": "user", "content": "hello"}], case


@pytest.mark.parametrize("kind", cases.TOKENIZERS)
def test_nothing_given_forges_a_token(kind: str) -> None:
    for case in cases.readable(kind):
        render = renderer(cases.tokenizer(*case))
        controls = set(render._codec.controls)

        def special(text: str, render: Renderer = render, controls: set[int] = controls) -> list[int]:
            state = State([Turn("a", "b", "accepted", "b", tool_messages=(text,))], "c", (text,), text)
            return [token for token in render.prompt(*state).ids if token in controls]

        for text in HOSTILE:
            assert special(text) == special("plain"), case


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(history=HISTORY, message=MESSAGE, given_=GIVEN)
def test_no_text_given_changes_which_special_tokens_a_prompt_has(
    kind: Any, history: list[Turn], message: str, given_: Any
) -> None:
    render, tokenizer = renderer(kind()), kind()
    tools, context = given_
    tools, context = tuple(text for text in tools if text.strip()), context.strip()
    ids = render.prompt(history, message, tools, context).ids
    plain = [turn("hello", None if t.suggestion is None else "red", t.reaction, "one") for t in history]
    other = render.prompt(plain, "hello", ("t",) * len(tools), "c" if context else "").ids
    assert special_tokens(tokenizer, ids) == special_tokens(tokenizer, other)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(history=HISTORY, given_=GIVEN)
def test_each_prompt_begins_the_next_one(kind: Any, history: list[Turn], given_: Any) -> None:
    render = renderer(kind())
    tools, context = given_
    history = [Turn(t.customer_message, t.suggestion, t.reaction, t.sent_message, tool_messages=tools) for t in history]
    conversation = Conversation("c", history, context=context)
    prompts = [render.prompt_at(conversation, index).ids for index in range(len(history))]
    for index, following in enumerate(prompts[1:]):
        begun = prompts[index] + render.response(history[index].suggestion)
        assert following[: len(begun)] == begun
    assert len(training_rows(render, conversation).rows) == min(1, len(history))


def test_equal_states_only_have_equal_prompts() -> None:
    """A customer or a tool cannot write what another tool, the context or the business would say."""
    for kind in ALL:
        render = renderer(kind())
        states = [
            State([], "a", ("b",)),
            State([], f"a\n{TOOL} b"),
            State([], "a", (f"b\n{TOOL} c",)),
            State([], "a", ("b", "c")),
            State([], "a", (), f"c\n{TOOL} b"),
            State([], f"a\n\\{TOOL} b"),
        ]
        assert len({tuple(render.prompt(*state).ids) for state in states}) == len(states)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(history=HISTORY, message=MESSAGE, given_=GIVEN, limit=st.integers(16, 300), steps=st.booleans())
def test_a_history_loses_turns_and_the_context_stays(
    kind: Any, form: Any, history: list[Turn], message: str, given_: Any, limit: int, steps: bool
) -> None:
    render = renderer(kind(), "", limit, steps, form)
    tools, context = given_[0], given_[1].strip()
    lengths = [len(render._ids(State(history, message, tools, context), kept)) for kept in range(len(history) + 1)]
    try:
        prompt = render.prompt(history, message, tools, context)
    except ContextTooLongError:
        assert context
        assert render.least(context) > limit
        return
    except PromptTooLongError:
        assert lengths[0] > limit
        assert not context or limit >= render.least(context)
        return
    kept = len(history) - prompt.dropped_turns
    assert prompt.ids == render._ids(State(history, message, tools, context), kept)
    assert len(prompt.ids) == lengths[kept] <= limit
    if not steps and form == "Marked":
        assert kept == max(number for number, length in enumerate(lengths) if length <= limit)


def test_plain_histories_are_what_was_sent() -> None:
    render = Renderer(kinds.chatml(), "Sell.", 4096, history_format="Plain")
    history = [
        Turn("tea?", "which", "edited", "which one?", tool_messages=("stock: 3",)),
        Turn("green", None, "rejected", ""),
        Turn("hello?", "sorry", "accepted", "sorry"),
        Turn("yes", "no", "rejected", "here", displayed=False),
    ]
    assert [(each["role"], each["content"]) for each in render.messages(history, "thanks", (), "a: 1")] == [
        ("system", "Sell.\n\na: 1"),
        ("user", f"tea?\n{TOOL} stock: 3"),
        ("assistant", "which one?"),
        ("user", "green\nhello?"),
        ("assistant", "sorry"),
        ("user", "yes"),
        ("assistant", "here"),
        ("user", "thanks"),
    ]
    spelt = render.tokenizer.decode(render.prompt(history, "thanks").ids)
    assert not any(marker in spelt for marker in MARKERS)


def test_an_export_that_repeats_the_system_prompt_changes_nothing() -> None:
    for kind in (kinds.tiny, kinds.chatml):
        render = Renderer(kind(), "Sell.", 4096)
        plain, given_ = render.prompt([], "hi").ids, render.prompt([], "hi", (), "a: 1").ids
        assert render.prompt([], "hi", (), "Sell.").ids == plain
        assert render.prompt([], "hi", (), "Sell.\n\na: 1").ids == given_ != plain


def test_what_does_not_fit_is_refused_with_counts_field_and_remedy() -> None:
    render = Renderer(kinds.chatml(), "", 64)
    with pytest.raises(
        ContextTooLongError, match=r"at least \d+ tokens by itself.*maxPromptTokens = 64\. Raise policy"
    ):
        render.prompt([], "hi", (), "x y z " * 100)
    with pytest.raises(
        PromptTooLongError, match=r"with what tools returned .*tokens \(\d+ with the context alone\), more than"
    ):
        render.prompt([], "hi", ("x y z " * 100,), "a")
    with pytest.raises(ContextTooLongError):
        render.prompt([], "hi", (), "🌷" * (LONGEST // 4))
    conversations = [
        Conversation(str(number), [Turn("hi", "s", "accepted", "s")], context="x y z " * (20 * number))
        for number in range(5)
    ]
    with pytest.raises(BadDataError, match=r"of 4 of 4 conversations that have one .*first: '1'.*least \d+ tokens"):
        check_contexts(render, conversations)
    check_contexts(render, conversations[:1])


def test_a_message_is_cut_to_what_the_rest_leaves() -> None:
    render = Renderer(kinds.chatml(), "", 128)
    given_ = (("stock: 3",), "a: 1\nb: 2")
    message = "hello flowers " * 100
    shown = render.cut(message, *given_)
    assert 0 < len(shown) < len(render.cut(message))
    assert len(render.prompt([], shown, *given_).ids) <= 128


def test_what_a_policy_has_learnt_to_read_is_kept_beside_it(tmp_path: Any) -> None:
    render = Renderer(kinds.tiny(), "", 99, True, "Plain", KINDS)
    render.save(tmp_path)
    loaded = Renderer.load(tmp_path, kinds.tiny())
    assert (loaded.history_format, loaded.reads) == ("Plain", set(KINDS))
    text = (tmp_path / "prompt.json").read_text()
    for wrong in (text.replace("Plain", "Odd"), text.replace('"tools"', '"smells"')):
        (tmp_path / "prompt.json").write_text(wrong)
        with pytest.raises(BadDataError, match="is not known"):
            Renderer.load(tmp_path, kinds.tiny())


def test_the_marker_of_tools_is_a_token_where_the_log_has_tools() -> None:
    with_tools, without = (build_tokenizer(["hello stock 3 [tool]"] * 3, 400, tools=tools) for tools in (True, False))
    assert with_tools.convert_tokens_to_ids(TOOL) in with_tools.all_special_ids
    assert TOOL not in without.get_vocab()
    counts = [Renderer(each, "", 99).prompt([], "hello", ("3",)).ids for each in (with_tools, without)]
    assert len(counts[0]) < len(counts[1])
    assert expected(Renderer(without, "", 99), [], "hello") == Renderer(without, "", 99).prompt([], "hello").ids
