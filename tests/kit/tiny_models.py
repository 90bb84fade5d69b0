"""Causal language models that are made in a millisecond."""

from typing import Any

import torch
from ippo_trainer.models.sampling import Sampling
from transformers import AutoConfig, AutoModelForCausalLM


def tiny_model(kind: str, vocabulary: int, seed: int | None = None, **changes: Any) -> Any:
    """A model of width 16.

    Args:
        kind: of transformers' architectures: `llama`, `qwen2`.
        vocabulary: number of tokens.
        seed: of its weights; None: they follow from the caller's.
        changes: of the config.
    """
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    if seed is not None:
        torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **sizes | changes)
    return AutoModelForCausalLM.from_config(config).eval()


def logprobs_of(model: Any, prompt: list[int], ids: list[int], how: Sampling) -> list[float]:
    """The log-probabilities of a response's tokens, from one forward."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return how.scale(logits.clone()).log_softmax(-1).gather(-1, torch.tensor(ids).unsqueeze(-1))[:, 0].tolist()
