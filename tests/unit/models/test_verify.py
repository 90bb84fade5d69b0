"""What a comparison of forwards finds, and what it lets pass."""

from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import verify
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.kit.architectures import tiny_config

IDS = {"vocab_size": 29, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def sharp(config: Any) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    return sharp(tiny_config("llama", **IDS))


def test_a_window_that_counts_columns_is_found_at_the_length_of_the_run_only() -> None:
    """GPT-Neo's, which is refused by name; another one will have another name."""
    config = tiny_config("gpt_neo", **IDS)
    config.window_size = 100
    model = sharp(config)
    verify.verify(model, "base")
    with pytest.raises(BadDataError, match=r"base \(GPTNeoForCausalLM\) computes other numbers for 300 tokens"):
        verify.verify(model, "base", 300)


def test_columns_count_even_where_texts_are_short() -> None:
    """A row of a batch holds a conversation with all samples: it is longer than any text."""
    config = tiny_config("gpt_neo", **IDS)
    config.window_size = 100
    with pytest.raises(BadDataError, match="other numbers for 60 tokens packed with others"):
        verify.verify(sharp(config), "base", 60)


def test_what_all_texts_of_a_batch_share_is_found() -> None:
    """As LongRoPE's factors: right alone and wrong beside a longer text."""
    config = tiny_config("llama", **IDS)
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 100}
    config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4} | factors
    model = sharp(config)
    verify.verify(model, "base", 100)
    with pytest.raises(BadDataError, match="exceeds the 100 tokens"):
        verify.verify(model, "base", 200)


def test_a_tie_of_a_router_is_no_fault_and_a_fault_is_none_of_chance(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = verify._differences

    def once(model: Any, name: str, length: int, attempt: int) -> dict[str, float]:
        return {"packed with others": 0.5} if attempt == 0 else plain(model, name, length, attempt)

    monkeypatch.setattr(verify, "_differences", once)
    verify.verify(llama, "base")
    monkeypatch.setattr(verify, "_differences", lambda *_: {"out of a cache": 0.5})
    with pytest.raises(BadDataError, match=r"out of a cache than alone \(by 5\.0e-01\)"):
        verify.verify(llama, "base")


def test_a_window_is_put_back() -> None:
    config = tiny_config("mistral", **IDS)
    model = sharp(config)
    verify.verify(model, "base")
    assert model.config.sliding_window == config.sliding_window == 20


@pytest.mark.parametrize(("width", "tokens"), [(8, 1024), (12_500, 749), (40_000, 512), (10**6, 512)])
def test_the_cost_is_bounded_for_large_models(width: int, tokens: int) -> None:
    with torch.device("meta"):
        config = LlamaConfig(vocab_size=width, hidden_size=8_000, intermediate_size=8, num_hidden_layers=0)
        model = LlamaForCausalLM(config)
    assert verify._affordable(model) == tokens


def test_q_is_the_trunk_and_one_map(llama: Any) -> None:
    before = [name for name, _ in llama.named_parameters()]
    verify.verify_q(llama, "base")
    assert [name for name, _ in llama.named_parameters()] == before
    with pytest.raises(BadDataError, match="is not one linear map of the last hidden state"):
        verify.verify_q(sharp(tiny_config("ctrl", **IDS)), "base")
