"""The loss and its gradient against a loop over rows and tokens; the order of rows."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from ippo_trainer.sft.order import training_order
from ippo_trainer.sft.trainer import SupervisedFit, SupervisedSettings
from ippo_trainer.text.rows import Row
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SETTINGS = SupervisedSettings(epochs=1, learning_rate=0.0, batch_size=6, seed=1, pad_id=0)


def tiny() -> Any:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LlamaForCausalLM(config).eval()


def rows(count: int) -> list[Row]:
    """Of 4 to 12 tokens; some two or three of them are a suggestion's."""
    chance = random.Random(2)
    result = []
    for number in range(count):
        ids = [chance.randrange(1, 16) for _ in range(chance.randint(4, 12))]
        mask = [False, *(chance.random() < 0.4 for _ in ids[2:]), True]
        result.append(Row(str(number), ids, mask))
    return result


def loss_and_gradient_by_hand(model: Any, batch: list[Row]) -> tuple[float, Tensor]:
    """In float64: every row alone, without padding, token by token."""
    model = model.double()
    losses = []
    for row in batch:
        logprobs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        losses += [-logprobs[t - 1, row.ids[t]] for t in range(1, len(row.ids)) if row.response_mask[t]]
    mean = torch.stack(losses).mean()
    return float(mean.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(model.parameters()))])


@pytest.mark.parametrize("rows_per_forward", [1, 2, 3, 6])
def test_loss_and_gradient_are_those_of_a_loop_over_tokens(
    monkeypatch: pytest.MonkeyPatch, rows_per_forward: int
) -> None:
    model, batch = tiny(), rows(6)
    fit = SupervisedFit(model, batch, SETTINGS)
    gradients: list[Tensor] = []
    parameters = list(model.parameters())

    def step(_: float) -> float:
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
        return 0.0

    monkeypatch.setattr(fit._optimiser, "step", step)
    loss = fit._update(rows_per_forward)
    expected, gradient = loss_and_gradient_by_hand(tiny(), batch)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert (gradients[0].double() - gradient).abs().max() < 1e-6


def test_a_batch_is_cut_so_that_forwards_are_small_enough() -> None:
    from ippo_trainer.sft.trainer import _rows_per_forward

    assert _rows_per_forward(12, longest=10, tokens=1000) == 12
    assert _rows_per_forward(12, longest=10, tokens=59) == 4
    assert _rows_per_forward(12, longest=100, tokens=59) == 1


def test_rows_beyond_a_forward_are_checkpointed_and_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, ends = replace(SETTINGS, learning_rate=0.01, batch_size=2, epochs=2), []
    for activation_bytes in (1 << 30, 1):
        monkeypatch.setattr("ippo_trainer.models.budget.WARM_START_BYTES", activation_bytes)
        model = tiny()
        fit = SupervisedFit(model, rows(6), settings)
        seen: set[bool] = set()
        fit.run(lambda model=model, seen=seen: seen.add(model.is_gradient_checkpointing))  # type: ignore[misc]
        assert seen == {activation_bytes == 1}
        assert not model.is_gradient_checkpointing
        assert not model.training
        ends.append(torch.cat([value.detach().flatten() for value in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-5)


def test_the_order_is_of_whole_epochs_in_batches_of_like_length() -> None:
    lengths = [random.Random(i).randint(1, 100) for i in range(1003)]
    order = training_order(lengths, 3, 8, seed=1)
    assert sorted(order) == sorted(list(range(1003)) * 3)
    assert order == training_order(lengths, 3, 8, seed=1) != training_order(lengths, 3, 8, seed=2)
    batches = [order[i : i + 8] for i in range(0, len(order), 8)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths) * 3
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in batches]
    assert abs(sum(means[:60]) / 60 - sum(means[-60:]) / 60) < 15  # lengths are not in order over time
