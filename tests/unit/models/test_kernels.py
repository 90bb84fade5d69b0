"""What a GPU runs differently, tried on the CPU: block masks, grouped queries, decoding in tables, the fused loss.

On a CPU FlexAttention runs as plain products, forwards only, and a step of decoding is not captured: the arithmetic is
the same.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.models import decoding, graphs, kernels, packing, sampling
from ippo_trainer.models.packing import Group, PackedBatch, allowed, hidden_states, pack
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.recompute import recompute
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.scoring import score_tokens
from torch import Tensor, nn

from tests.kit.architectures import VOCABULARY, WINDOW, token_ids, windowed


@pytest.fixture(scope="module", params=["llama", "qwen2", "mistral", "qwen3"])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model as it is on a CPU, and the same with a GPU's attention."""
    plain, fast = windowed(request.param), windowed(request.param)
    kernels.enable(fast)
    assert kernels.enabled(fast)
    assert not kernels.enabled(plain)
    return plain, fast


def trees() -> PackedBatch:
    long = token_ids(150, 1)
    groups = [Group(long[:n], [token_ids(3, n), token_ids(WINDOW + 3, n + 1)]) for n in (5, 60, 150)]
    return pack([*groups, Group(token_ids(4, 9), [[5, 6], [7]])])


def test_block_masks_give_the_states_of_dense_ones(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = trees()
    with torch.no_grad():
        expected = hidden_states(decoder(models[0]), packed)
        monkeypatch.setattr(packing, "_is_large", lambda trunk, packed: True)
        states = hidden_states(decoder(models[1]), packed)
    real = packed.branch_ids.reshape(-1) >= 0
    torch.testing.assert_close(states[real], expected[real], atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(data=st.data())
def test_a_block_mask_says_what_the_dense_one_says(data: st.DataObject) -> None:
    ids, groups = st.lists(st.integers(0, 9), min_size=1, max_size=160), []
    for _ in range(data.draw(st.integers(1, 3))):
        prompt = data.draw(ids)
        for _ in range(data.draw(st.integers(1, 2))):
            groups.append(Group(list(prompt), data.draw(st.lists(ids, max_size=2))))
            prompt = prompt + data.draw(ids)
    packed = pack(groups)
    window = data.draw(st.sampled_from([None, 3, 100]))
    mask = packed.block_mask(window)
    rows, width = packed.input_ids.shape
    dense = mask.to_dense()[0, 0].bool().repeat_interleave(kernels.BLOCK, 0).repeat_interleave(kernels.BLOCK, 1)
    numbers, zero = torch.arange(len(dense)), torch.zeros((), dtype=torch.long)
    by_rule = mask.mask_mod(zero, zero, numbers[:, None], numbers)
    expected = allowed(packed)
    if window is not None:
        expected = expected & (packed.position_ids.unsqueeze(2) - packed.position_ids.unsqueeze(1) < window)
    wide = len(dense) // rows
    for row, places in enumerate(packed.block_layout.places.view(rows, width)):
        assert torch.equal(by_rule[places][:, places], expected[row])
        assert not (expected[row] & ~dense[places][:, places]).any()
        others = torch.ones(len(dense), dtype=torch.bool)
        others[row * wide : (row + 1) * wide] = False
        assert not dense[places][:, others].any()
    counts = mask.full_kv_num_blocks[0, 0].tolist()
    for query, count in enumerate(counts):  # whole blocks are not asked of the rule
        for key in mask.full_kv_indices[0, 0, query, :count].tolist():
            assert by_rule[tuple(slice(kernels.BLOCK * n, kernels.BLOCK * (n + 1)) for n in (query, key))].all()


def prompts(count: int) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(2, VOCABULARY, generator.integers(1, 20)).tolist() for _ in range(count)]


@pytest.mark.parametrize("stops", [set(), {1}, {1, 4, 5, 6, 7}])
@pytest.mark.parametrize("memory", [True, False])
def test_decoding_in_tables_gives_what_decoding_gives(
    models: Any, stops: set[int], memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two turns, with rows that end early and late, and graphs that are made anew for longer texts."""
    monkeypatch.setattr(graphs, "_COLUMNS", 16)
    monkeypatch.setattr(graphs, "LOOK", 3)
    options = Sampling(2, 14, 0.8, stops, 0, min_p=0.02)
    found = []
    for decode, model in zip((decoding.Decode, graphs.GraphDecode), models, strict=True):
        monkeypatch.setattr(sampling, "Decode", decode)
        texts, remembered, rows = prompts(20), sampling.PrefixMemory(), []
        for turn in range(2):
            keys = [100 * turn + number for number in range(len(texts))]
            more: Any = {"memory": remembered, "slots": range(len(texts))} if memory else {}
            rows += sample(model, texts, keys, options, **more)
            texts = [prompt + pair[0].ids + [5, 6] for prompt, pair in zip(texts, rows[-20:], strict=True)]
        found.append([response for pair in rows for response in pair])
    assert [response.ids for response in found[0]] == [response.ids for response in found[1]]
    assert [response.ended for response in found[0]] == [response.ended for response in found[1]]
    for one, other in zip(*found, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("size", [2, 128, 300, 5000])
def test_a_draw_by_tiles_is_the_inverse_distribution_function(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    scores = 3 * torch.randn((400, size), generator=generator)
    scores[:, ::3] = float("-inf")
    scores[:, 1] = 0.0
    levels = torch.rand(400, generator=generator, dtype=torch.double)
    levels[:2] = torch.tensor([0.0, 1 - 2.0**-52])
    tokens, logprobs = graphs.draw(scores, levels)
    table = scores.log_softmax(-1)
    heights = table.double().exp().cumsum(-1)
    exact = torch.searchsorted(heights, (levels * heights[:, -1]).unsqueeze(1), right=True)[:, 0]
    assert (tokens != exact).sum() <= 1  # where a level falls between two roundings of one boundary
    assert table.gather(1, tokens.unsqueeze(1)).isfinite().all()
    torch.testing.assert_close(logprobs, table.gather(1, tokens.unsqueeze(1))[:, 0], atol=1e-5, rtol=0)


class _Same(nn.Linear):
    """A linear head that is scored the plain way."""


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parts", [("logprobs",), ("entropy",), ("logprobs", "entropy")])
def test_the_fused_scores_and_their_gradients_are_those_of_autograd(bias: bool, parts: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    states, tokens = torch.randn(50, 8, dtype=torch.double), torch.randint(0, VOCABULARY, (50,))
    heads = [kind(8, VOCABULARY, bias=bias).double() for kind in (nn.Linear, _Same)]
    heads[1].load_state_dict(heads[0].state_dict())
    found = []
    for head in heads:
        leaf = states.clone().requires_grad_(True)
        scores = score_tokens(leaf, head, tokens, 0.7, chunk_logits=7 * VOCABULARY)
        sum((getattr(scores, name).double() ** 3).sum() for name in parts).backward()  # type: ignore[union-attr]
        found.append([scores.logprobs, scores.entropy, leaf.grad, *(value.grad for value in head.parameters())])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), atol=1e-4, rtol=1e-4)


def test_impossible_tokens_make_no_nan() -> None:
    head = nn.Linear(4, VOCABULARY).bfloat16()
    with torch.no_grad():
        head.bias[3] = float("-inf")
    states = torch.randn(5, 4).bfloat16().requires_grad_(True)
    scores = score_tokens(states, head, torch.tensor([0, 1, 2, 4, 5]))
    (scores.logprobs.sum() + scores.entropy.sum()).backward()
    for leaf in (states, head.weight):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_recomputed_layers_give_the_same_gradients_and_keep_less() -> None:
    packed, found = trees(), []
    for again in (False, True):
        model = windowed("llama")
        if again:
            recompute(model.model)
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            states = hidden_states(model.model, packed)
        states.square().sum().backward()
        found.append((states, [value.grad for value in model.model.parameters()], sum(kept.values())))
        with torch.no_grad():
            torch.testing.assert_close(hidden_states(model.model, packed), states)
    torch.testing.assert_close(found[0][:2], found[1][:2], atol=0, rtol=0)
    assert found[1][2] < found[0][2] / 2
