"""Who gets a candidate: by chance, always the same, and drawn anew for every candidate."""

import math

from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.live.assignment import in_canary

CONVERSATIONS = [f"c-{number}" for number in range(20_000)]
ONE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def assigned(candidate: str, share: float) -> set[str]:
    return {each for each in CONVERSATIONS if in_canary(candidate, each, share)}


def test_the_share_is_the_share() -> None:
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        spread = 5 * math.sqrt(share * (1 - share) / len(CONVERSATIONS))
        assert abs(len(assigned(ONE, share)) / len(CONVERSATIONS) - share) <= spread


def test_a_larger_share_keeps_who_was_there() -> None:
    assert assigned(ONE, 0.1) < assigned(ONE, 0.3)


def test_another_candidate_gets_others() -> None:
    both = assigned(ONE, 0.5) & assigned(OTHER, 0.5)
    assert abs(len(both) / len(CONVERSATIONS) - 0.25) < 0.02


@given(st.text(), st.floats(0, 1))
def test_any_id_has_one_answer(conversation: str, share: float) -> None:
    assert in_canary(ONE, conversation, share) is in_canary(ONE, conversation, share)
