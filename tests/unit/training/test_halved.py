"""bfloat16 weights that are trained are halves of fp32 ones, to the last bit."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.models.halves import cast, halve, halves, joined, unite
from ippo_trainer.training import halved
from ippo_trainer.training.checkpoint import Weights, WeightsSnapshot
from ippo_trainer.training.optimiser import Optimiser
from torch import Tensor, nn


@settings(max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**126, min_value=-(2.0**126))))
def test_halves_are_the_nearest_bfloat16_and_joined_give_all_bits(values: list[float]) -> None:
    weight = torch.tensor([*values, 0.0, -0.0, 1.00390625, -1.00390625], dtype=torch.float32)  # the last two are ties
    high, low = halves(weight)
    assert torch.equal(joined(high, low).view(torch.int32), weight.view(torch.int32))
    spacing = (high.float() - weight.bfloat16().float()).abs()
    ties = low == -(2**15)
    assert (spacing[~ties] == 0).all()
    assert ((high.float() - weight).abs() == (weight.bfloat16().float() - weight).abs()).all()


@pytest.mark.parametrize("word", [0x7FFFFFFF, 0x7FFF8000, 0xFFFFFFFF, 0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F808000])
def test_no_kind_of_nan_becomes_a_number(word: int) -> None:
    weight = torch.tensor([word], dtype=torch.int64).to(torch.int32).view(torch.float32)
    high, low = halves(weight)
    assert bool(high.isnan())
    assert bool(joined(high, low).isnan())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.exact = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(3, 1)

    def halved(self) -> "Net":
        halve(self.a, torch.bfloat16)
        halve(self.b, torch.bfloat16)
        return self


def step(module: nn.Module, optimiser: Optimiser, seed: int) -> float:
    """With the same gradients whatever the type, so that only the optimiser matters."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw).bfloat16().to(parameter.dtype)
    return optimiser.step(0.7)


@pytest.mark.parametrize("chunk", [1, 20, 1 << 20])
def test_steps_are_those_of_fp32_weights(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved, "_CHUNK", chunk)
    plain, half = Net(), Net().halved()
    optimisers = [Optimiser(net.parameters(), 0.01, decay=0.1, epsilon=1e-5) for net in (plain, half)]
    for number in range(5):
        norms = [step(net, optimiser, number) for net, optimiser in zip((plain, half), optimisers, strict=True)]
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert half.a.weight.dtype == torch.bfloat16
    unite(half)
    for mine, other in zip(half.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-6)


def test_snapshots_and_checkpoints_hold_both_halves() -> None:
    half = Net().halved()
    optimiser, snapshot = Optimiser(half.parameters(), 0.01), WeightsSnapshot(half)
    step(half, optimiser, 0)
    snapshot.take()
    saved = {name: tensor.detach().clone() for name, tensor in Weights(half).tensors()}
    moments = [(name, tensor.clone()) for name, tensor in optimiser.tensors()]

    def goes_on(net: Net, optimiser: Optimiser) -> list[Tensor]:
        step(net, optimiser, 1)
        unite(net)
        return list(net.parameters())

    other = Net().halved()
    again = Optimiser(other.parameters(), 0.01)
    Weights(other).set_tensors(saved.items())
    again.set_tensors(moments)
    step(half, Optimiser(half.parameters(), 0.5), 3)
    snapshot.put_back()
    for mine, theirs in zip(goes_on(half, optimiser), goes_on(other, again), strict=True):
        assert torch.equal(mine, theirs)


def test_a_model_that_is_only_read_has_no_rest_and_copies_have_none() -> None:
    half = Net().halved()
    assert hasattr(half.a.weight, "low")
    assert not hasattr(copy.deepcopy(half).a.weight, "low")
    read: Any = Net()
    cast(read, torch.bfloat16)
    assert torch.equal(read.a.weight, half.a.weight)
    assert not hasattr(read.a.weight, "low")
    cast(read, torch.float32)
    assert read.a.weight.dtype == torch.bfloat16
