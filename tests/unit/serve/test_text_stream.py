import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.serve import certain_text
from ippo_trainer.serve.certain_text import CertainText
from ippo_trainer.serve.text_stream import TextStream
from ippo_trainer.text.markers import unescape
from ippo_trainer.text.render import Renderer

from tests.unit.text import kinds_of_tokenizers, tokenizers_for_tests

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


def certain(text):
    """What stays as it is of what tokens spell, read again from its beginning."""
    if "[abstain]".startswith(text.strip()):
        return ""
    return unescape(text[: OLD.search(text).start()])


@settings(max_examples=1000)
@given(
    st.lists(
        st.text(st.sampled_from("ab[]\\ \n\ufffd\x85\x1cA"), max_size=8)
        | st.sampled_from(["[abstain]", "\\[edited]", "[accep", "ted]"]),
        max_size=12,
    )
)
def test_what_is_certain_is_what_no_later_token_can_change(pieces):
    stream, given, came = CertainText(), "", ""
    for piece in pieces:
        given += stream.take(piece)
        came += piece
        assert given == certain(came)


@pytest.mark.parametrize("piece", ["\n", "\\", "[", "\\[accepted]", "\\ ", "[abstain] "])
def test_a_character_is_looked_at_a_few_times_however_long_the_answer(piece, monkeypatch):
    """What unescape reads, and what is put together to be read again."""
    looked = []
    monkeypatch.setattr(certain_text, "unescape", lambda text: looked.append(len(text)) or unescape(text))
    stream = CertainText()
    parts = [stream.take(character) for character in piece * 2000]
    assert unescape(piece * 2000).startswith("".join(parts))
    assert sum(looked) <= 2 * len(piece * 2000) + 100


def test_tokens_that_spell_no_character_are_decoded_a_few_times(monkeypatch):
    """Half a character after half a character, as a policy may say that learnt little."""
    tokenizer = kinds_of_tokenizers.tokenizer("byte level", "chatml")
    renderer, half = Renderer(tokenizer, "", 64), tokenizer.convert_tokens_to_ids("\u00c3")
    decoded, ids = [], [half] * 500 + renderer.response("red flowers")
    expected, real = renderer.decode(ids)[0], renderer.text
    monkeypatch.setattr(renderer, "text", lambda ids: decoded.append(len(ids)) or real(ids))
    parts, stream = streamed(renderer, ids)
    assert "".join(parts) == stream.text == expected
    assert expected.count("\ufffd") == 500
    assert sum(decoded) < 200 * len(ids)


def test_every_token_is_decoded_a_few_times_however_long_the_answer(plain, monkeypatch):
    ids = plain.response("hello red flowers é please " * 60)
    decoded = []
    real = plain.text
    monkeypatch.setattr(plain, "text", lambda ids: decoded.append(len(ids)) or real(ids))
    parts, stream = streamed(plain, ids)
    assert "".join(parts) == stream.text == plain.decode(ids)[0]
    assert sum(decoded) < 8 * len(ids)
