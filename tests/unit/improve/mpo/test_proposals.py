"""Candidates of two samplers, merged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.improve.algorithms.mpo.proposals import propose
from ippo_trainer.models.sampling import Sampled


def draws(texts: list[int], ended: bool = True) -> list[Sampled]:
    return [Sampled([text, 9], [-1.0, -0.5], ended) for text in texts]


def test_a_prior_is_the_mixtures_share() -> None:
    proposals = propose(draws([1, 1, 1, 2]), draws([2, 3]), 0.2)
    assert proposals.responses == [[1, 9], [2, 9], [3, 9]]
    assert proposals.prior.tolist() == pytest.approx([0.8 * 0.75, 0.8 * 0.25 + 0.2 * 0.5, 0.2 * 0.5])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_sampler_without_a_share_proposes_nothing(share: float) -> None:
    proposals = propose(draws([1]), draws([2]), share)
    assert proposals.responses == [[2, 9] if share else [1, 9]]


def test_draws_without_an_end_are_no_suggestions() -> None:
    proposals = propose(draws([1]) + draws([4], ended=False), draws([5, 6], ended=False), 0.3)
    assert proposals.responses == [[1, 9]]
    assert proposals.prior.tolist() == [1.0]
    assert propose(draws([1], ended=False), [], 0.3).responses == []


@given(
    own=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    explored=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
)
def test_the_prior_is_a_distribution_over_distinct_texts_in_any_order(
    own: list[int], explored: list[int], share: float
) -> None:
    proposals = propose(draws(own), draws(explored), share)
    assert len({tuple(ids) for ids in proposals.responses}) == len(proposals.responses) == len({*own, *explored})
    assert proposals.prior.sum() == pytest.approx(1.0)
    again = propose(draws(own[::-1]), draws(explored[::-1]), share)
    one, two = (dict(zip(map(tuple, p.responses), p.prior.tolist(), strict=True)) for p in (proposals, again))
    assert one == pytest.approx(two)
