"""The funnel's words: short, few, various, and parsed back exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.environments.funnel.tables import SENT
from ippo_trainer.environments.funnel.text import (
    GREETINGS,
    SUGGESTIONS,
    WORDINGS,
    parse_customer,
    parse_intent,
    vocabulary,
)

ALL = [(intent, text) for intent, texts in SUGGESTIONS.items() for text in texts]


def test_each_intent_has_three_to_eight_wordings_of_four_to_twelve_words_out_of_about_a_hundred() -> None:
    assert tuple(SUGGESTIONS) == SENT
    assert all(3 <= len(texts) <= 8 for texts in SUGGESTIONS.values())
    assert all(4 <= len(text.split()) <= 12 for _, text in ALL)
    assert 80 <= len(vocabulary()) <= 120


@pytest.mark.parametrize(("intent", "text"), ALL)
def test_a_suggestion_parses_back_to_its_intent_however_it_is_typed(intent: str, text: str) -> None:
    for typed in (text, text.capitalize() + "!", f"  {text.replace(' ', '  ')}\n", text + " ?"):
        index = parse_intent(typed)
        assert index is not None
        assert SENT[index] == intent


@pytest.mark.parametrize("text", ["", " ", "hello", "what do you need it", "what do you need it for for", "need", "🙂"])
def test_anything_else_does_not_parse(text: str) -> None:
    assert parse_intent(text) is None


@given(st.lists(st.sampled_from(sorted(vocabulary())), min_size=1, max_size=12))
def test_words_in_another_order_do_not_parse(chosen: list[str]) -> None:
    text = " ".join(chosen)
    assert parse_intent(text) == next((SENT.index(intent) for intent, known in ALL if known == text), None)


def test_a_customer_message_tells_stage_and_signal_and_nothing_is_said_in_two_ways() -> None:
    texts = [text for wordings in WORDINGS.values() for text in wordings]
    assert len(set(texts)) == len(texts)
    for state, wordings in WORDINGS.items():
        assert len(wordings) >= 3
        assert all(parse_customer(text) == state for text in wordings)
    assert all(parse_customer(text) is None and parse_intent(text) is None for text in GREETINGS)
    assert not set(texts) & {text for _, text in ALL}
