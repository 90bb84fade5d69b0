"""Logged states, batches of them, and responses laid out in tables."""

from collections import Counter
from typing import Any

import torch
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.improve.states import BatchStream, LoggedStates


def naive_logprobs(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    return [float(logits[len(prompt) - 1 + t, token]) for t, token in enumerate(response)]


def responses_of(batch: Any) -> list[list[int]]:
    rows: list[list[int]] = []
    for piece in batch.pieces:
        tokens, index = piece.packed.tokens.tolist(), piece.packed.response_index.tolist()
        rows += [[t for t, i in zip(tokens, index, strict=True) if i == n] for n in range(len(piece.packed.lengths))]
    return rows


def test_tables_belong_to_their_responses(toy: Any) -> None:
    """Log-probs, Q and V of every row equal one naive forward per (prompt, response)."""
    numbers = range(7)
    states = [state for n in numbers for state in toy.states.of(n)]
    batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in numbers], "p", 3)
    scores = toy.sampler.logprobs(toy.policy, batch)
    assert len(batch.minibatches) == 3
    for row, response in enumerate(responses_of(batch)):
        state = states[int(batch.states[row])]
        assert f"c{int(batch.clusters[row])}" == state.conversation
        assert int(batch.mask[row].sum()) == len(response)
        assert bool(batch.ended[row]) == (response[-1] == 1)
        expected = torch.tensor(naive_logprobs(toy.policy, state.prompt, response))
        for table in (scores.logprobs, batch.sampler_logprobs):
            torch.testing.assert_close(table[row][batch.mask[row]], expected.float(), atol=1e-5, rtol=0)
        ids = torch.tensor([state.prompt + response])
        with torch.no_grad():
            hidden = toy.q.model(input_ids=ids).last_hidden_state[0]
            logits = toy.q.score(hidden).squeeze(-1)
        assert abs(float(batch.scores[row]) - float(logits[-1].sigmoid())) < 1e-5
        assert abs(float(batch.baselines[row]) - float(logits[len(state.prompt) - 1].sigmoid())) < 1e-5
    assert float(scores.entropy.min()) >= 0.0


def test_conversations_are_not_split_over_minibatches(toy: Any) -> None:
    batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in range(8)], "p", 4)
    seen = [{int(c) for piece in minibatch for c in batch.clusters[piece.rows]} for minibatch in batch.minibatches]
    assert sorted(c for minibatch in seen for c in minibatch) == list(range(8))


def test_more_minibatches_than_conversations_are_one_each(toy: Any) -> None:
    assert len(toy.sampler.draw(toy.policy, [toy.states.of(0)], "p", 5).minibatches) == 1


def test_what_a_state_samples_depends_on_itself_and_the_purpose_only(toy: Any) -> None:
    def texts(numbers: list[int], purpose: str) -> dict[int, list[list[int]]]:
        batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in numbers], purpose, 2)
        result: dict[int, list[list[int]]] = {}
        for row, response in enumerate(responses_of(batch)):
            result.setdefault(numbers[int(batch.clusters[row])], []).append(response)
        return result

    alone, together = texts([4], "p"), texts([2, 4, 7], "p")
    assert sorted(alone[4]) == sorted(together[4])
    assert texts([4], "other") != alone


def test_state_means(toy: Any) -> None:
    batch = toy.sampler.draw(toy.policy, [toy.states.of(n) for n in range(3)], "p", 1)
    means = batch.state_means(batch.scores)
    for state in range(len(means)):
        torch.testing.assert_close(means[state], batch.scores[batch.states == state].mean())


def test_states_after_the_outcome_are_left_out(toy: Any) -> None:
    def turn(number: int, outcome: bool) -> Turn:
        return Turn(str(number), None, "rejected", "x", outcome=outcome)

    conversations = [
        Conversation("a", [turn(0, False), turn(1, False), turn(2, True)], outcome=True),
        Conversation("b", [turn(0, True)], outcome=True),
        Conversation("c", []),
    ]
    states = LoggedStates(conversations, toy.states._renderer)
    assert len(states) == 1
    assert [(state.conversation, state.turn) for state in states.of(0)] == [("a", 0), ("a", 1)]


def test_batches_cover_everything_before_they_repeat() -> None:
    stream = BatchStream(10, 5, seed=1)
    drawn = [number for position in range(4) for number in stream.batch(position)]
    assert Counter(drawn) == dict.fromkeys(range(10), 2)
    assert stream.batch(3) == BatchStream(10, 5, seed=1).batch(3)
    assert stream.batch(0) != BatchStream(10, 5, seed=2).batch(0)


def test_a_batch_over_two_shuffles_has_nobody_twice() -> None:
    for position in range(20):
        numbers = BatchStream(10, 7, seed=1).batch(position)
        assert len(set(numbers)) == len(numbers)


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    assert sorted(BatchStream(3, 32, seed=0).batch(7)) == [0, 1, 2]
