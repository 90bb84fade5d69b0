"""Windows are honoured in every forward, and rotary embeddings that follow the batch are kept where they do not."""

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.models import attention
from ippo_trainer.models.cache import PrefixMemory
from ippo_trainer.models.load import check_context
from ippo_trainer.models.packing import Group, pack
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.scoring import token_logprobs

from tests.kit.architectures import IDS, WINDOW, sharp, tiny_config, token_ids, windowed

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}


def own_logprobs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    with torch.no_grad():
        table = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return table[len(prompt) - 1 : -1].gather(1, torch.tensor(response).unsqueeze(1))[:, 0]


@pytest.fixture(scope="module", params=["mistral", "qwen2", "gemma3_text", "olmo3"])
def model(request: pytest.FixtureRequest) -> Any:
    """One with a window in all layers, and some with windows in half of them."""
    return windowed(request.param)


def test_packed_texts_of_all_lengths_see_what_they_see_alone(model: Any) -> None:
    lengths = (1, WINDOW - 1, WINDOW, 3 * WINDOW)
    trunk = token_ids(lengths[-1], 1)
    groups = [Group(trunk[:n], [token_ids(1, n), token_ids(WINDOW + 3, n + 1)]) for n in lengths] + [
        Group(token_ids(4, 9), [[5, 6]])
    ]
    expected = torch.cat([own_logprobs(model, g.prompt, r) for g in groups for r in g.responses])
    with torch.no_grad():
        found = token_logprobs(model, pack(groups)).logprobs.double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_sampled_texts_of_all_lengths_see_what_they_see_alone(model: Any) -> None:
    """Over two turns, the second out of the memory of the first."""
    prompts, memory = [token_ids(n, n) for n in (2, WINDOW, 4 * WINDOW)], PrefixMemory()
    for turn in range(2):
        keys = [10 * turn + number for number in range(len(prompts))]
        rows = sample(model, prompts, keys, Sampling(2, WINDOW + 2, 1.0, {1}, 0), memory, range(len(prompts)))
        for prompt, response in ((p, r) for p, pair in zip(prompts, rows, strict=True) for r in pair):
            expected = own_logprobs(model, prompt, response.ids)
            torch.testing.assert_close(torch.tensor(response.logprobs).double(), expected, atol=1e-4, rtol=0)
        prompts = [prompt + pair[0].ids + [5, 6] for prompt, pair in zip(prompts, rows, strict=True)]


def test_a_window_hides_what_is_far(model: Any) -> None:
    """So that the tests above have something to find."""
    prompt, response = token_ids(4 * WINDOW, 3), [5, 6]
    before = own_logprobs(model, prompt, response)
    wide = model.config.sliding_window
    model.config.sliding_window = None if model.config.model_type == "mistral" else 100
    assert (own_logprobs(model, prompt, response) - before).abs().max() > 1e-2
    model.config.sliding_window = wide


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, None),
        ({"rope_type": "dynamic", "factor": 4.0}, 64),
        ({**LONGROPE, "original_max_position_embeddings": 16}, 16),
        (LONGROPE, 64),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "dynamic"}}, 64),
        (None, None),
    ],
)
def test_rotary_embeddings_that_follow_the_batch_bound_the_length(
    rope: dict[str, Any] | None, tokens: int | None
) -> None:
    config = SimpleNamespace(rope_parameters=rope, max_position_embeddings=64)
    assert [limit.tokens for limit in attention.limits(config)] == [64] + ([] if tokens is None else [tokens])


@pytest.mark.parametrize("rope", [{**LONGROPE, "original_max_position_embeddings": 16}, {"rope_type": "dynamic"}])
def test_beyond_it_nothing_is_computed_and_up_to_it_the_batch_does_not_matter(rope: dict[str, Any]) -> None:
    config = tiny_config("llama", **IDS)
    config.max_position_embeddings = 16
    config.rope_parameters = {"rope_theta": 1e4, "factor": 4.0} | rope
    model = sharp(type(config).from_dict(json.loads(config.to_json_string())))
    groups = [Group(token_ids(3, 1), [[5, 6]]), Group(token_ids(14, 2), [[5, 6]])]
    with torch.no_grad():
        found = token_logprobs(model, pack(groups)).logprobs.double()
    expected = torch.cat([own_logprobs(model, group.prompt, group.responses[0]) for group in groups])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(BadDataError, match="17 tokens exceeds the 16 tokens beyond which"):
        token_logprobs(model, pack([groups[0], Group(token_ids(14, 2), [[5, 6, 7]])]))
    with pytest.raises(BadDataError, match="17 tokens exceeds the 16 tokens beyond which"):
        sample(model, [token_ids(3, 1), token_ids(14, 2)], [1, 2], Sampling(1, 3, 1.0, {1}, 0))
    with pytest.raises(BadSpecError, match=r"maxPromptTokens 15 plus .* 2 exceed the .*16 .*\. Lower .* to 14\."):
        check_context(model.config, 15, 2)
    check_context(model.config, 14, 2)


def test_the_numbers_do_depend_on_the_batch_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is why texts are bounded; where this fails, transformers has changed and the bound can go."""
    monkeypatch.setattr(attention, "_FOLLOWING", {})
    config = tiny_config("llama", **IDS)
    config.rope_parameters = LONGROPE | {"original_max_position_embeddings": 16}
    model = sharp(config)
    groups = [Group(token_ids(8, 1), [[5, 6]]), Group(token_ids(14, 2), [[5, 6, 7]])]
    with torch.no_grad():
        alone, beside = (token_logprobs(model, pack(groups[:count])).logprobs[:2] for count in (1, 2))
    assert (alone - beside).abs().max() > 1e-2


def test_every_kind_of_layer_gets_its_mask() -> None:
    positions = torch.arange(5).unsqueeze(0)
    seen = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    weight = torch.zeros(1)
    for kinds, longest in itertools.product((None, ["full_attention", "sliding_attention"]), (2, 5)):
        config = SimpleNamespace(sliding_window=2, layer_types=kinds)
        decoder = SimpleNamespace(config=config, parameters=lambda: iter([weight]))
        mask = attention.attention_mask(decoder, seen, positions, positions, longest)
        assert isinstance(mask, dict) == (kinds is not None and longest > 2)
        near = mask["sliding_attention"] if isinstance(mask, dict) else mask
        band = seen & (longest == 2 or positions.unsqueeze(2) - positions.unsqueeze(1) < 2)
        assert torch.equal(near[:, 0] == 0, band)
