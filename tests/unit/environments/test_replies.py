"""What a scripted business does with suggestions."""

import numpy as np
import pytest
from ippo_trainer.environments.problem import continuations
from ippo_trainer.environments.replies import ACCEPTED, EDITED, REJECTED, reaction, sent_messages
from ippo_trainer.environments.streams import pick


@pytest.mark.parametrize(
    ("accepts", "edits", "u", "expected"),
    [
        (0.5, 0.5, 0.0, ACCEPTED),
        (0.5, 0.5, 0.49, ACCEPTED),
        (0.5, 0.5, 0.5, EDITED),
        (0.5, 0.5, 0.75, REJECTED),
        (0.0, 0.0, 0.0, REJECTED),
        (1.0, 0.0, 0.999, ACCEPTED),
    ],
)
def test_reactions_have_their_probabilities(accepts: float, edits: float, u: float, expected: int) -> None:
    assert reaction(accepts, edits, u) == expected


def test_only_what_is_accepted_goes_out_word_for_word() -> None:
    wordings = [("a", "b"), ("a", "b"), ("c", "d"), ("c",)]
    sent = sent_messages(["a", "a", "a", None], [ACCEPTED, EDITED, REJECTED, REJECTED], wordings, [0.0, 0.0, 0.99, 0.5])
    assert sent == ["a", "b", "d", "c"]


def test_a_pick_is_uniform_and_never_beyond_the_end() -> None:
    assert [pick(("a", "b"), u) for u in (0.0, 0.49, 0.5, np.nextafter(1.0, 0.0))] == ["a", "a", "b", "b"]


def test_continuations_are_padded_with_nothing() -> None:
    probability, child = continuations([[[(3, 0.25), (1, 0.5)], []], [[(2, 1.0)], [(0, 0.5)]]])
    assert probability.tolist() == [[[0.25, 0.5], [0, 0]], [[1, 0], [0.5, 0]]]
    assert child.tolist() == [[[3, 1], [0, 0]], [[2, 0], [0, 0]]]
