"""Returns, censoring and splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.returns import monte_carlo_returns, uncensored
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.splits import split


def conversation(turns: int, outcome: bool, after: int | None = None) -> Conversation:
    """`turns` turns; the outcome, if any, came after turn `after` (default: the last)."""
    last = turns - 1 if after is None else after
    return Conversation(
        "c", [Turn("x", "y", "accepted", "y", outcome=outcome and i > last) for i in range(turns)], outcome
    )


@given(turns=st.integers(1, 12), outcome=st.booleans(), discount=st.floats(0, 1), data=st.data())
def test_returns_are_the_discounted_sum_of_rewards(
    turns: int, outcome: bool, discount: float, data: st.DataObject
) -> None:
    after = data.draw(st.integers(0, turns - 1))
    rewards = [1.0 if outcome and i == after else 0.0 for i in range(turns)]
    expected, value = [], 0.0
    for reward in reversed(rewards):
        value = reward + discount * value
        expected.insert(0, value)
    assert monte_carlo_returns(conversation(turns, outcome, after), discount) == pytest.approx(expected)


def test_an_open_conversation_has_no_returns_and_is_left_out() -> None:
    open_ = Conversation("open", [Turn("x", "y", "accepted", "y")], censored=True)
    with pytest.raises(BadDataError, match=r"'open' is censored.*uncensored"):
        monte_carlo_returns(open_, 0.9)
    closed = conversation(1, False)
    assert uncensored([open_, closed]) == [closed]


@given(
    ids=st.lists(st.text(max_size=5), unique=True, max_size=60),
    seed=st.integers(0, 9),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_a_split_depends_on_ids_and_seed_only(ids: list[str], seed: int, share: float, data: st.DataObject) -> None:
    train, held = split(ids, share, seed)
    assert sorted(train + held) == sorted(ids)
    assert not set(train) & set(held)
    shuffled = data.draw(st.permutations(ids))
    assert tuple(map(set, split(shuffled, share, seed))) == (set(train), set(held))
    if 0 < share < 1 and len(ids) > 1:
        assert train
        assert held


def test_ids_keep_their_side_when_more_come_and_the_share_is_right() -> None:
    ids = [f"c{i}" for i in range(4000)]
    _, held = split(ids, 0.15, 1)
    assert abs(len(held) / 4000 - 0.15) < 0.02
    assert set(split(ids[:1000], 0.15, 1)[1]) == set(held) & set(ids[:1000])
    assert set(split(ids, 0.15, 2)[1]) != set(held)
    assert split(["a", "a", "b"], 0.0, 1) == (["a", "b"], [])
