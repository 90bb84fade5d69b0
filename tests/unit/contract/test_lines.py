"""Text that others wrote, as it is shown and stored."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.lines import cut, one_line, printable
from ippo_trainer.contract.spec import Decision, StageResult

anything = st.text(st.characters(codec=None), max_size=200)
"""Lone surrogates and all."""
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"}


def test_no_character_at_all_gets_through_that_a_terminal_obeys_or_hides() -> None:
    left = {c for c in printable("".join(map(chr, range(sys.maxunicode + 1)))) if unicodedata.category(c) in HIDDEN}
    assert left == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[31mapproved\x07", "\ufffd[2J\ufffd[31mapproved\ufffd"),
        ("done\n2026-01-31 INFO forged\r\tline", "done 2026-01-31 INFO forged line"),
        ("\x9b31m and \x85next\u2028line\u2029end", "\ufffd31m and next line end"),
        ("\u202egnp.exe\u202c \u2066x\u2069", "gnp.exe x"),
        ("ze\u200bro \u200dwid\ufeffth\u00ad", "zero width"),
        ("a\x00b\ud800c\udfff", "a\ufffdb\ufffdc\ufffd"),
        ("hidden\U000e0041\U000e0042\ufe0f\u3164", "hidden"),
        ("  ein Käufer – 買い手 🙂\u00a0 ", "ein Käufer – 買い手 🙂"),
    ],
)
def test_what_becomes_of_text(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(anything, st.integers(8, 64))
def test_any_text_becomes_one_bounded_line_of_utf8_and_stays_that(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line.encode()) <= limit
    assert line.isprintable()
    assert one_line(line, limit) == line
    assert " ".join(line.split()) == line


@given(anything)
def test_a_line_keeps_its_blanks_where_only_what_is_printable_counts(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) <= len(text)


def test_a_cut_never_splits_a_character() -> None:
    assert [cut("ää€€", limit) for limit in (10, 9, 8, 7, 6, 5, 4, 3)] == [
        "ää€€",
        "ää…",
        "ää…",
        "ää…",
        "ä…",
        "ä…",
        "…",
        "…",
    ]


@given(anything, st.dictionaries(st.text(st.characters(codec=None), max_size=20), st.floats(-1, 1), max_size=4))
def test_whatever_a_stage_says_its_result_is_valid_utf8(text: str, metrics: dict[str, float]) -> None:
    decision = Decision(outcome="Reject", reason=text)
    digest = "sha256:" + "0" * 64
    result = StageResult(
        stage="evaluate", iteration=1, input_digest=digest, metrics=metrics, decision=decision, message=text
    )
    assert json.loads(result.to_message().decode())["decision"]["reason"] == one_line(text)
