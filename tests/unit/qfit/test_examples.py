"""Batches hold every turn once; the language-model loss covers every dialogue token once."""

from typing import Any

import torch
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.load import new_q
from ippo_trainer.models.packing import Group
from ippo_trainer.qfit.examples import (
    Example,
    Targets,
    make_examples,
    pack_turns,
    shuffled_batches,
    turn_offsets,
    with_words_ahead,
)
from ippo_trainer.qfit.losses import loss_sums
from ippo_trainer.qfit.outlook import words_ahead
from ippo_trainer.qfit.procedure import language_head
from ippo_trainer.qfit.readings import read_all, read_logits
from ippo_trainer.qfit.targets import Target
from torch.nn import functional


def test_every_conversation_is_in_one_batch_and_batches_differ_by_seed(make_toy: Any) -> None:
    examples = make_toy(203).examples
    batches = shuffled_batches(examples, 10, 1)
    assert sorted(number for batch in batches for number in batch) == list(range(203))
    assert {len(batch) for batch in batches} <= {10, 3}
    assert shuffled_batches(examples, 10, 1) == batches
    assert shuffled_batches(examples, 10, 2) != batches


def test_every_turn_is_in_one_part_at_its_own_place(make_toy: Any) -> None:
    examples = make_toy(30).examples
    offsets = turn_offsets(examples)
    parts = pack_turns(examples, [4, 9, 2, 17, 25], offsets, max_tokens=64)
    assert len(parts) > 1
    turns = torch.cat([part.turns for part in parts]).tolist()
    expected = [turn for member in (4, 9, 2, 17, 25) for turn in range(offsets[member], offsets[member + 1])]
    assert sorted(turns) == sorted(expected)
    flat = [group for example in examples for group in example.groups]
    for part in parts:
        ids = part.packed.input_ids.reshape(-1)
        ends = ids[part.packed.response_end_index].tolist()
        starts = ids[part.packed.response_end_index - 1].tolist()
        for turn, start, end in zip(part.turns.tolist(), starts, ends, strict=True):
            assert [start, end] == flat[turn].responses[0]


def test_dialogue_tokens_are_predicted_once_each(make_toy: Any) -> None:
    examples = make_toy(1, turns=[3]).examples
    (part,) = pack_turns(examples, [0], turn_offsets(examples), 1024)
    last = examples[0].groups[-1]
    whole = last.prompt + last.responses[0]
    ids = part.packed.input_ids.reshape(-1)
    assert ids[part.lm_token].tolist() == whole[1:]
    assert ids[part.lm_predict].tolist() == whole[:-1]


def test_loss_is_that_of_plain_forwards(make_toy: Any, make_policy: Any) -> None:
    torch.manual_seed(0)
    policy = make_policy()
    model, examples = new_q(policy, 1), make_toy(5).examples
    offsets = turn_offsets(examples)
    targets = Targets.of([[Target(0.3, 1.0 + turn, turn % 2) for turn, _ in enumerate(row.groups)] for row in examples])
    batch = examples, range(5), offsets
    plain = pack_turns(*batch, 96)
    assert all(part.ahead is None for part in plain), "readers of a whole log do not pay for it"
    parts = with_words_ahead(plain, *batch)
    head = language_head(policy, model)
    for each in (head.reply, head.rest):
        torch.nn.init.normal_(each.weight)
    got = [loss_sums(model, head, part, targets) for part in parts]
    q = v = lm = words = 0.0
    for number, example in enumerate(examples):
        replies, rests = words_ahead(example.groups)
        for turn, group in enumerate(example.groups):
            place = offsets[number] + turn
            both = torch.tensor([group.prompt + group.responses[0]])
            states = model.model(input_ids=both).last_hidden_state[0]
            scores = model.score(states).squeeze(-1)
            loss = functional.binary_cross_entropy_with_logits
            q += (targets.weight[place] * loss(scores[-1], torch.tensor(0.3))).item()
            v += (targets.value_weight[place] * loss(scores[len(group.prompt) - 1], torch.tensor(0.3))).item()
            for where, reading, coming in (
                (-1, head.reply, replies[turn]),
                (len(group.prompt) - 1, head.rest, rests[turn]),
            ):
                logprobs = functional.log_softmax(policy.lm_head(reading(states[where])), 0)
                words -= float(logprobs[coming].detach().mean()) if coming else 0.0
        logits = policy.lm_head(states)
        lm += functional.cross_entropy(logits[:-1], both[0, 1:], reduction="sum").item()
    assert words > 0
    for index, expected in enumerate((q, v, lm, words)):
        total = sum(float((sums.q, sums.v, sums.lm, sums.words)[index].detach()) for sums in got)
        assert abs(total - expected) < 1e-4 * abs(expected)


def test_reading_all_turns_is_reading_each(make_toy: Any, make_policy: Any) -> None:
    examples = make_toy(12).examples
    model = new_q(make_policy(), 3)
    q, v = read_all(model, examples, 64, torch.device("cpu"))
    offsets = turn_offsets(examples)
    for number in range(12):
        (part,) = pack_turns(examples, [number], offsets, 1024)
        logits = read_logits(model, part.packed)
        assert torch.allclose(torch.tensor(q)[part.turns].float(), logits.q.sigmoid(), atol=1e-5)
        assert torch.allclose(torch.tensor(v)[part.turns].float(), logits.v.sigmoid(), atol=1e-5)


def test_a_part_of_one_turn_is_read_like_any_other(make_toy: Any, make_policy: Any) -> None:
    model = new_q(make_policy(), 3)
    examples = make_toy(4, turns=[1]).examples
    alone = read_all(model, examples, 1, torch.device("cpu"))
    together = read_all(model, examples, 1024, torch.device("cpu"))
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(torch.tensor(one), torch.tensor(other), atol=1e-6)
        assert (one > 0).all()


def test_weights_are_relative() -> None:
    targets = Targets.of([[Target(1.0, 2.0, 2.0), Target(0.0, 0.0, 0.0)], [Target(0.5, 4.0, 0.0)]])
    assert targets.weight.tolist() == [1.0, 0.0, 2.0]
    assert targets.value_weight.tolist() == [1.0, 0.0, 0.0]


class _Renderer:
    """Prompts count what was said; responses are the suggestion's length."""

    def prompt_at(self, conversation: Conversation, index: int) -> Any:
        return self.prompt(conversation.turns[:index], conversation.turns[index].customer_message)

    def prompt(self, history: list[Turn], message: str) -> Any:
        return type("Prompt", (), {"ids": [1] * (len(history) + 1), "dropped_turns": len(history) // 2})

    def response(self, suggestion: str | None) -> list[int]:
        return [9] * len(suggestion or "x")

    def decode(self, ids: list[int]) -> tuple[str, bool]:
        return {(5, 6): "known"}.get(tuple(ids), "?"), True


def test_sampled_tokens_are_used_where_they_belong_to_the_suggestion() -> None:
    turns = [
        Turn("a", "known", "accepted", "b", token_ids=[5, 6]),
        Turn("a", "other", "accepted", "b", token_ids=[5, 6]),
        Turn("a", None, "rejected", "b"),
    ]
    (example,), dropped = make_examples([Conversation("c", turns)], _Renderer())
    assert [group.responses[0] for group in example.groups] == [[5, 6], [9] * 5, [9]]
    assert dropped == 1
    assert isinstance(example, Example)
    assert isinstance(example.groups[0], Group)
