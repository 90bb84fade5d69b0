"""What a GPU computes, against the plain ways of the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.models import graphs, kernels, packing
from ippo_trainer.models.halves import cast
from ippo_trainer.models.load import build_tiny, load_policy, new_q
from ippo_trainer.models.packing import Group, PackedBatch, hidden_states, pack
from ippo_trainer.models.parking import park, present
from ippo_trainer.models.recompute import recompute
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.scoring import score_tokens, token_logprobs
from ippo_trainer.text.tokenizer import build_tokenizer
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
VOCABULARY = 5000


def made(device: str, window: int | None = None) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=2,
        initializer_range=0.05,
    )
    model = Qwen2ForCausalLM(config).eval().to(device)
    if device == "cuda":
        kernels.enable(model)
    return model


def text(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def trees() -> PackedBatch:
    groups = []
    for row in range(3):
        long = text(400 + 10 * row, row)
        groups += [Group(long[:n], [text(20, n + 7 * k) for k in range(1, 4)]) for n in (40, 200, 350, 400)]
    return pack(groups)


def distance(mine: torch.Tensor, other: torch.Tensor) -> float:
    mine, other = mine.detach().double().cpu(), other.detach().double().cpu()
    return float((mine - other).norm() / other.norm())


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("again", [False, True])
def test_block_masks_give_the_scores_and_gradients_of_the_cpu(
    window: int | None, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_DENSE", 1)
    packed, found = trees(), []
    for device in ("cpu", "cuda"):
        model = made(device, window)
        if device == "cuda":
            cast(model, torch.bfloat16)
            if again:
                recompute(model.model)
        here = packed.to(device)
        scores = token_logprobs(model, here, 0.9)
        (scores.logprobs.mean() + scores.entropy.mean()).backward()
        found.append([scores.logprobs, scores.entropy, *(value.grad for value in model.parameters())])
        assert bool(here.masks) == (device == "cuda")
    assert (found[0][0].cpu() - found[1][0].cpu()).abs().max() < 0.1
    assert max(distance(mine, other) for mine, other in zip(found[1], found[0], strict=True)) < 0.05


def test_two_forwards_of_one_batch_agree_to_the_last_bit() -> None:
    model, packed = made("cuda"), trees().to("cuda")
    cast(model, torch.bfloat16)
    with torch.no_grad():
        old = token_logprobs(model, packed).logprobs
    assert torch.equal(token_logprobs(model, packed).logprobs, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_steps_draw_what_single_steps_draw(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, keys = [text(10 + 13 * number, number) for number in range(20)], range(20)
    stops = set(range(0, VOCABULARY, 25))
    options = Sampling(4, 40, 1.0, stops, 0)
    model = made("cuda")
    cast(model, dtype)
    captured = sample(model, prompts, keys, options)
    monkeypatch.setattr(graphs, "_asks_nothing", lambda model: False)
    stepped = sample(model, prompts, keys, options)
    assert [[each.ids for each in rows] for rows in captured] == [[each.ids for each in rows] for rows in stepped]
    lengths = [len(each.ids) for rows in captured for each in rows]
    assert min(lengths) < 20 < max(lengths)
    if dtype == torch.float32:
        expected = sample(made("cpu"), prompts, keys, options)
        flat = [[each for rows in found for each in rows] for found in (captured, expected)]
        pairs = list(zip(*flat, strict=True))
        assert sum(one.ids != other.ids for one, other in pairs) <= 1  # where a level meets a boundary
        for one, other in pairs:
            if one.ids == other.ids:
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_the_samplers_logprobs_are_the_trainers() -> None:
    model = made("cuda")
    cast(model, torch.bfloat16)
    prompts = [text(200, number) for number in range(8)]
    rows = sample(model, prompts, range(8), Sampling(4, 32, 1.0, set(), 0))
    packed = pack([Group(prompt, [each.ids for each in own]) for prompt, own in zip(prompts, rows, strict=True)])
    with torch.no_grad():
        trained = token_logprobs(model, packed.to("cuda")).logprobs.cpu()
    drawn = torch.tensor([value for own in rows for each in own for value in each.logprobs])
    assert (trained - drawn).abs().mean() < 0.02
    assert abs(float((trained - drawn).mean())) < 0.005


def test_a_policy_is_tried_with_the_attention_that_it_will_have(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["left 1 2 3 4 5 !", "sent None ! left"] * 2)
    made_up = build_tiny("tiny:d64-l2", tokenizer, 3)
    made_up.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(tmp_path, "cuda", 200).model
    assert kernels.enabled(policy)
    assert "attn" not in policy.config.to_json_string()
    assert kernels.enabled(new_q(policy))


def test_fused_scores_of_16_bits_are_those_of_double() -> None:
    torch.manual_seed(0)
    states, tokens = torch.randn(300, 64), torch.randint(0, VOCABULARY, (300,))
    head = nn.Linear(64, VOCABULARY, bias=True)
    found = []
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.bfloat16)):
        linear = nn.Linear(64, VOCABULARY).to(device)
        linear.load_state_dict(head.state_dict())
        linear.to(dtype)
        leaf = states.to(device, dtype).requires_grad_(True)
        scores = score_tokens(leaf, linear, tokens.to(device), 0.7, chunk_logits=70 * VOCABULARY)
        (scores.logprobs.sum() + scores.entropy.sum()).backward()
        found.append([scores.logprobs, scores.entropy, leaf.grad, linear.weight.grad, linear.bias.grad])
    assert max(distance(mine, other) for mine, other in zip(found[1], found[0], strict=True)) < 1e-2
    assert distance(found[1][0], found[0][0]) < 1e-5


def test_a_parked_model_is_there_when_it_is_needed() -> None:
    model, packed = made("cuda"), trees().to("cuda")
    with torch.no_grad():
        before = hidden_states(model.model, packed)
        park(model)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
        with present(model), present(model):
            torch.testing.assert_close(hidden_states(model.model, packed), before, atol=0, rtol=0)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
