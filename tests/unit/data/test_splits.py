"""Splits by conversation."""

from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.splits import split


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
