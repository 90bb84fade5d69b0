"""Every reason is explained, by a sentence and a remedy."""

from pathlib import Path

import pytest
from ippo_operator.api import reasons
from ippo_operator.api.reasons import EXPLANATIONS, RECOVERY
from ippo_operator.api.status import Reason

PAGE = Path(__file__).parents[4] / "docs/reasons.md"


def test_every_reason_is_explained_and_nothing_else():
    assert set(EXPLANATIONS) == set(Reason)


@pytest.mark.parametrize("reason", EXPLANATIONS)
def test_an_explanation_has_sentences_and_a_place(reason):
    told = EXPLANATIONS[reason]
    assert told.meaning.endswith(".")
    assert told.remedy.endswith(".")
    assert told.conditions
    assert len(set(told.conditions)) == len(told.conditions)
    assert told.recovery in RECOVERY
    assert "|" not in told.meaning + told.remedy, "would break the page's tables"


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text() == reasons.to_markdown(), "make docs"


def test_the_page_has_every_reason_once():
    page = reasons.to_markdown()
    assert all(page.count(f"| `{reason}` |") == 1 for reason in Reason)
