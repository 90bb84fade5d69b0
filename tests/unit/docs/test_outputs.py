"""Outputs on pages are compared by words; figures may differ."""

import pytest

from tests.kit.doc_outputs import missing

SHOWN = """\
14:02:11 tea starts
…
iteration 1 done in 2 s: success 18.5%, 99% accepted, digest 0a1b2c3d4e5f
done: … of 4000
"""
PRINTED = """\
23:59:59 tea starts
something else

and more
iteration 1 done in 1 min 3 s: success 7%, 100.0% accepted, digest 8232c96e8f2c
done: 3 out of 5000
"""


def test_figures_may_differ_and_gaps_are_passed_over() -> None:
    assert missing(SHOWN, PRINTED) is None


FIGURES = "iteration 1 done in 2 s: success 18.5%, 99% accepted, digest 0a1b2c3d4e5f"


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("tea starts", "tea begins", "14:02:11 tea starts"),
        ("iteration 1", "iteration 2", FIGURES),
        ("digest 8232c96e8f2c", "digest none", FIGURES),
        ("out of 5000\n", "out of 5000\nmore\n", "nothing after that, but printed was: more"),
        ("something else", "tea starts", None),
    ],
)
def test_words_may_not(right: str, wrong: str, line: str | None) -> None:
    assert missing(SHOWN, PRINTED.replace(right, wrong)) == line
