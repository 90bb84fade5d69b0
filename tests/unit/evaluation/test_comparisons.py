"""Which states people are shown."""

from collections import Counter

from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.evaluation.comparisons import MOST_PAIRS, compare


def conversation(name: str, turns: int) -> Conversation:
    return Conversation(name, [Turn(f"{name} asks {n}", "said", "accepted", f"sent {n}") for n in range(turns)])


def test_one_state_of_each_conversation_in_which_they_differ() -> None:
    held = [conversation(f"c{number}", 4) for number in range(30)]
    states = [(each.id, turn) for each in held for turn in range(4)]
    current = ["old"] * len(states)
    candidate = ["old" if turn == 0 or name == "c7" else None if turn == 1 else "new" for name, turn in states]
    found = compare(held, states, candidate, current, 5)
    assert (found.states, found.identical) == (120, 30 + 3)
    assert Counter(pair.conversation for pair in found.pairs) == Counter(f"c{n}" for n in range(30) if n != 7)
    assert {pair.turn for pair in found.pairs} == {1, 2, 3}
    assert [pair.conversation for pair in found.pairs] != sorted(pair.conversation for pair in found.pairs)
    for pair in found.pairs:
        assert pair.message == f"{pair.conversation} asks {pair.turn}"
        assert [each.sent for each in pair.history] == [f"sent {n}" for n in range(pair.turn)]
        assert (pair.current, pair.candidate) == ("old", None if pair.turn == 1 else "new")
    assert found == compare(held, states, candidate, current, 5)
    assert found != compare(held, states, candidate, current, 6)


def test_a_judge_is_given_what_the_policies_were() -> None:
    turns = [
        Turn("a", "s", "accepted", "s", tool_messages=("t",)),
        Turn("b", "s", "accepted", "s", tool_messages="u" * 9),
    ]
    conversation = Conversation("c", turns, context="x" * 9000)
    [pair] = compare([conversation], [("c", 1)], ["one"], ["two"], 0).pairs
    assert (len(pair.context), pair.history[0].tools, pair.tools) == (2000, ["t"], ["u"] * 4)


def test_it_is_bounded() -> None:
    held = [conversation(f"c{number}", 30) for number in range(2 * MOST_PAIRS)]
    states = [(each.id, 29) for each in held]
    found = compare(held, states, ["x" * 10_000] * len(states), ["y"] * len(states), 1)
    assert len(found.pairs) == MOST_PAIRS
    assert len(found.model_dump_json()) < 2_000_000
    assert all(len(pair.history) == 12 and len(pair.candidate or "") == 2000 for pair in found.pairs)
