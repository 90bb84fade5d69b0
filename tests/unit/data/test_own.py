"""Which part of a log is the policy's own."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.own import by_policy, own_part
from ippo_trainer.data.schema import Conversation, Turn

MINE, OTHER = "sha256:1", "sha256:2"
KINDS = {
    "m": (MINE, "policy"),
    "x": (OTHER, "explore"),
    "o": (OTHER, "policy"),
    "u": ("", "policy"),  # nobody knows whose
    "l": (MINE, "log"),  # a log says that it is somebody else's
}


def talk(speakers: str, outcome: bool = False, after: int = 0, name: str = "c") -> Conversation:
    """Turns by KINDS, the last `after` of them after the outcome."""
    turns = [
        Turn("hello", "hi", "accepted", "hi", policy_digest=digest, behaviour=behaviour)  # type: ignore[arg-type]
        for digest, behaviour in (KINDS[letter] for letter in speakers)
    ]
    for turn in turns[len(turns) - after :]:
        turn.outcome = True
    return Conversation(name, turns, outcome or after > 0)


@pytest.mark.parametrize(
    ("speakers", "kept"), [("mm", "mm"), ("mxm", "mxm"), ("om", ""), ("um", ""), ("l", ""), ("mmom", "mm"), ("xo", "x")]
)
def test_what_another_policy_said_and_what_follows_is_left_out(speakers: str, kept: str) -> None:
    got = own_part([talk(speakers, True)], by_policy(MINE))
    assert (got.others, got.handed_over) == (int(not kept), int(0 < len(kept) < len(speakers)))
    if kept:
        (found,) = got.conversations
        assert len(found.turns) == len(kept)
        assert (found.censored, found.outcome) == ((True, False) if got.handed_over else (False, True))
    else:
        assert got.conversations == []


def test_what_is_said_after_the_outcome_does_not_matter() -> None:
    (found,) = own_part([talk("mmo", after=1)], by_policy(MINE)).conversations
    assert (len(found.turns), found.outcome, found.censored) == (2, True, False)


@given(st.lists(st.text("mxoul", min_size=1, max_size=6), max_size=8))
def test_nothing_of_another_policy_is_ever_kept_and_everything_is_counted(speakers: Sequence[str]) -> None:
    got = own_part([talk(text) for text in speakers], by_policy(MINE))
    assert len(got.conversations) + got.others == len(speakers)
    assert sum(found.censored for found in got.conversations) == got.handed_over
    for found in got.conversations:
        assert all(turn.behaviour == "explore" or turn.policy_digest == MINE for turn in found.turns)
        assert all(turn.behaviour != "log" for turn in found.turns)
