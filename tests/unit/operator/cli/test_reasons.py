"""Every reason is explained, by a sentence and a remedy."""

from pathlib import Path

import pytest
from ippo_operator.api import reasons
from ippo_operator.api.reasons import RECOVERY, Reason

PAGE = Path(__file__).parents[4] / "docs/reasons.md"


@pytest.mark.parametrize("reason", Reason)
def test_an_explanation_has_sentences_and_a_place(reason):
    assert reason.meaning.endswith(".")
    assert reason.remedy.endswith(".")
    assert reason.places
    assert len(set(reason.places)) == len(reason.places)
    assert reason.recovery in RECOVERY
    assert "|" not in reason.meaning + reason.remedy, "would break the page's tables"


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text() == reasons.to_markdown(), "make docs"


def test_the_page_has_every_reason_once():
    page = reasons.to_markdown()
    assert all(page.count(f"| `{reason}` |") == 1 for reason in Reason)
