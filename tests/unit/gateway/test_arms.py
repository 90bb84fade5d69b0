"""Who answers a conversation: the same on every replica, in the shares that were asked for, as long as can be."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.personas import Persona
from ippo_trainer.contract.personas import drawn as drawn_of
from ippo_trainer.gateway.arms import Earlier, assign
from ippo_trainer.gateway.memory import Recent
from ippo_trainer.live.assignment import in_canary

from tests.kit.gateways import ACTIVE, CANDIDATE, routes

NAMES = st.text(min_size=1, max_size=40)
SHARES = st.sampled_from(["0", "0.01", "0.1", "0.25", "0.5", "0.99", "1"])
OLD = f"sha256:{'0' * 64}"


def personas(*shares):
    return tuple(Persona(name=f"p{number}", share=share) for number, share in enumerate(shares))


def under(share=None, *of_personas):
    return routes("http://a", "http://c", share, personas(*of_personas))


@given(NAMES, SHARES)
def test_a_new_conversation_goes_where_the_test_counts_it(name, share):
    assignment = assign(under(share), name, None)
    tested = in_canary(CANDIDATE, name, float(share))
    assert (assignment.arm, assignment.route.digest) == (("candidate", CANDIDATE) if tested else ("active", ACTIVE))
    assert assign(under(), name, None).arm == "active"


@given(NAMES, SHARES, SHARES)
def test_a_conversation_keeps_its_policy_whatever_the_share_becomes(name, before, after):
    first = assign(under(before), name, None)
    then = assign(under(after), name, Earlier(first.route.digest, ""))
    assert (then.arm, then.route) == (first.arm, first.route)


@given(NAMES, SHARES, st.sampled_from([OLD, ACTIVE, CANDIDATE]))
def test_a_conversation_whose_policy_is_gone_gets_the_active_one(name, share, digest):
    assert assign(under(), name, Earlier(digest, "")).arm == "active"
    assert assign(under(share), name, Earlier(digest, "")).arm == ("candidate" if digest == CANDIDATE else "active")


@given(NAMES, st.lists(st.sampled_from(["0.05", "0.1", "0.2"]), max_size=4), SHARES)
def test_personas_are_drawn_by_conversation_whatever_the_policy(name, shares, share):
    drawn = assign(under(None, *shares), name, None).persona
    assert assign(under(share, *shares), name, None).persona == drawn
    # One more at the end takes no conversation from another.
    more = drawn_of(personas(*shares, "0.1"), name)
    assert more == drawn or drawn is None


@given(NAMES)
def test_a_persona_stays_with_its_conversation_and_goes_with_the_switch(name):
    kept = assign(under(None, "0.1", "0.1"), name, Earlier(ACTIVE, "p1")).persona
    assert kept is not None
    assert kept.name == "p1"
    assert assign(under(None, "0.1"), name, Earlier(ACTIVE, "p1")).persona is None
    assert assign(under(None, "1"), name, Earlier(ACTIVE, "")).persona is None


@pytest.mark.parametrize("share", ["0.1", "0.5"])
def test_shares_are_those_that_were_asked_for(share):
    """Of 20,000 conversations, within 5 standard errors; personas do not depend on the arm."""
    count = 20_000
    under_test = under(share, "0.2", "0.1")
    found = [assign(under_test, f"c{number}", None) for number in range(count)]
    counts = Counter((each.arm, each.persona.name if each.persona else "") for each in found)
    for arm, of_arm in (("candidate", float(share)), ("active", 1 - float(share))):
        for persona, of_persona in (("p0", 0.2), ("p1", 0.1), ("", 0.7)):
            expected = of_arm * of_persona
            error = (expected * (1 - expected) / count) ** 0.5
            assert abs(counts[arm, persona] / count - expected) < 5 * error


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 8))
def test_the_newer_half_of_what_may_be_remembered_is(steps, most):
    recent, written = Recent(most), {}
    used = []  # the newest last
    for number, (write, name) in enumerate(steps):
        key = str(name)
        if write:
            recent.put(key, number)
            written[key] = number
        else:
            entry = recent.get(key)
            assert entry in (None, written.get(key))
            assert entry is not None or key not in used[-max(1, most // 2) :]
        if write or recent.get(key) is not None:
            used = [each for each in used if each != key] + [key]
        assert len(recent) <= max(2, most)
