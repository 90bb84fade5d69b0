import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.serve.text_stream import TextStream, _certain
from ippo_trainer.text.render import Renderer

from tests.unit.text import tokenizers_for_tests

WORDS = st.sampled_from(
    ["hello", " ", "\n", "é", "🌷", "[abstain]", "[accepted]", "\\", "\\[edited]", "[", "[ab", "red", "\ufffd", "ten"]
)


@pytest.fixture(scope="module", params=["tiny", "chatml", "sentencepiece"])
def plain(request):
    return Renderer(getattr(tokenizers_for_tests, request.param)(), "", 64)


def streamed(renderer, ids, stops=()):
    stream = TextStream(renderer, stops)
    parts = []
    for number, token in enumerate(ids):
        parts.append(stream.push([token], number + 1 == len(ids)))
        if stream.stopped:
            break
    return parts, stream


@settings(max_examples=300)
@given(words=st.lists(WORDS, max_size=12), ends=st.booleans())
def test_parts_add_up_to_what_the_renderer_decodes(plain, words, ends):
    ids = plain.response("".join(words))
    ids = ids if ends else ids[:-1] or ids
    parts, stream = streamed(plain, ids)
    expected, _ = plain.decode(ids)
    assert "".join(parts) == stream.text == (expected or "")
    assert stream.abstains == (expected is None)


@settings(max_examples=300)
@given(words=st.lists(WORDS, min_size=1, max_size=12), stops=st.lists(WORDS, min_size=1, max_size=3))
def test_nothing_of_a_stop_text_is_ever_sent(plain, words, stops):
    ids = plain.response("".join(words))
    parts, stream = streamed(plain, ids, stops)
    full = plain.decode(ids)[0] or ""
    ends = [(full.find(stop) + len(stop), full.find(stop)) for stop in stops if stop in full]
    assert stream.stopped == bool(ends)
    assert "".join(parts) == stream.text == (full[: min(ends)[1]] if ends else full)


def test_an_abstention_sends_no_text(plain):
    parts, stream = streamed(plain, plain.response(None))
    assert parts == [""] * len(parts)
    assert stream.abstains


def test_text_is_sent_as_it_comes(plain):
    parts, _ = streamed(plain, plain.response("hello red flowers please"))
    assert sum(bool(part) for part in parts) >= 3


OLD = re.compile(r"(?:\s|\ufffd)*(?:\\*(?:\[[a-z]{0,8})?)?(?:\s|\ufffd)*$")
"""As an oracle: cubic in a run of white space."""


@settings(max_examples=1000)
@given(st.text(st.sampled_from("ab[]\\ \n\ufffd\x85\x1cA"), max_size=24))
def test_what_is_certain_is_what_no_later_token_can_change(text):
    found = OLD.search(text)
    assert _certain(text) == (0 if "[abstain]".startswith(text.strip()) else found.start())


def test_a_long_run_of_white_space_holds_nobody_up():
    assert _certain("hello" + "\n" * 30_000 + "x") == 30_006
    assert _certain("hello" + "\n" * 30_000) == 5


def test_every_token_is_decoded_a_few_times_however_long_the_answer(plain, monkeypatch):
    ids = plain.response("hello red flowers é please " * 60)
    decoded = []
    real = plain.text
    monkeypatch.setattr(plain, "text", lambda ids: decoded.append(len(ids)) or real(ids))
    parts, stream = streamed(plain, ids)
    assert "".join(parts) == stream.text == plain.decode(ids)[0]
    assert sum(decoded) < 8 * len(ids)
