"""Every causal language model of transformers either runs here as it runs alone, or is refused by a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import load
from ippo_trainer.models.cache import PrefixMemory
from ippo_trainer.models.packing import Group, hidden_states, pack
from ippo_trainer.models.parts import decoder, head
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.text.tokenizer import build_tokenizer
from transformers import AutoModelForCausalLM

from tests.kit.architectures import names, tiny_config

LENGTH = 300
"""Tokens that bases are tried on."""

TAKEN = {
    *("arcee", "axk1", "biogpt", "cohere_compass_text", "deepseek_v2", "deepseek_v3", "diffllama", "exaone4", "falcon"),
    *("gemma", "gemma3_text", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "helium"),
    *("hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "llama", "ministral", "ministral3", "mistral", "mixtral"),
    *("nemotron", "olmo", "olmo2", "olmo3", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
}
_HEAD = {
    "bert",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "gemma2",
    "megatron-bert",
    "minicpm3",
} | {
    *("modernbert-decoder", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
}
_OTHER_FORWARD = {"bart", "bigbird_pegasus", "mbart", "mpt", "mvp", "plbart"}
_CACHE = {
    "axk2",
    "bloom",
    "jamba",
    "minimax",
    "openai-gpt",
    "qwen3_5_text",
    "qwen3_next",
    "reformer",
    "xlm",
    "xlnet",
} | {
    "zamba",
    "zamba2",
}
REFUSED = {
    **dict.fromkeys(_HEAD, "are not a linear map of its hidden states"),
    **dict.fromkeys(_OTHER_FORWARD, "computes other numbers for 24 tokens"),
    **dict.fromkeys(_CACHE, "cannot be run out of a cache"),
    **dict.fromkeys(("doge", "gpt_neo"), "goes by the columns of a batch"),
    **dict.fromkeys(("gemma3", "qwen3_5"), "is not for text alone"),
    "ctrl": "is not one linear map of the last hidden state",
}
"""What is said of those that have a sequence classifier, by name."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(["hello world this is a small log"] * 3)


def made(name: str, tokenizer: Any) -> Any:
    """A model whose attention is far from even, so that what it sees matters."""
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(1)
    end = tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(tiny_config(name, **ids, bos_token_id=end, eos_token_id=end))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def saved(directory: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_all_architectures_are_here() -> None:
    """A new one of transformers is tried, and its name put where it belongs."""
    assert TAKEN.isdisjoint(REFUSED)
    assert set(names(with_q=True)) == TAKEN | set(REFUSED)


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_an_architecture_runs_through_everything_as_it_runs_alone(name: str, tokenizer: Any, tmp_path: Path) -> None:
    policy = load.load_policy(saved(tmp_path / "base", made(name, tokenizer), tokenizer), longest=LENGTH).model
    _check_texts(policy, tokenizer)
    _check_q(policy, tmp_path / "q")


def _check_texts(policy: Any, tokenizer: Any) -> None:
    """Not by `verify`, whose word this is to test: sampled over two turns, packed, and trained on."""
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(5, len(tokenizer), (length,), generator=draw).tolist() for length in (60, 3)]
    memory, groups, drawn = PrefixMemory(), [[], []], [[], []]
    sampling = Sampling(2, 4, 1.0, {-1}, tokenizer.pad_token_id)
    for turn in range(2):
        keys = [10 * turn, 10 * turn + 1]
        rows = sample(policy, prompts, keys, sampling, memory, [0, 1])
        for number, responses in enumerate(rows):
            groups[number].append(Group(prompts[number], [response.ids for response in responses]))
            drawn[number] += [value for response in responses for value in response.logprobs]
        prompts = [prompt + responses[0].ids + [7] for prompt, responses in zip(prompts, rows, strict=True)]
    flat = [*groups[0], *groups[1]]
    with torch.no_grad():
        own = torch.cat([_own(policy, group.prompt, response) for group in flat for response in group.responses])
    packed = token_logprobs(policy, pack(flat)).logprobs
    torch.testing.assert_close(torch.tensor([*drawn[0], *drawn[1]]), own, atol=2e-3, rtol=0)
    torch.testing.assert_close(packed.detach(), own, atol=2e-3, rtol=0)
    packed.sum().backward()
    gradients = [value.grad for value in policy.parameters() if value.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def _own(policy: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    table = policy(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return table[len(prompt) - 1 : -1].gather(1, torch.tensor(response).unsqueeze(1))[:, 0]


def _check_q(policy: Any, directory: Path) -> None:
    """Q, saved and loaded, scores a response beside others as its own forward scores the text alone."""
    load.new_q(policy, seed=3).save_pretrained(directory)
    q = load.load_q(directory)
    packed = pack([Group([5, 6, 7], [[8, 9], [9]]), Group([5], [[6]])])
    with torch.no_grad():
        found = head(q)(hidden_states(decoder(q), packed)[packed.response_end_index])[:, 0]
        own = torch.cat([q(input_ids=torch.tensor([ids])).logits[0] for ids in ([5, 6, 7, 8, 9], [5, 6, 7, 9], [5, 6])])
    torch.testing.assert_close(found, own, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"gemma3", "qwen3_5"}))
def test_an_architecture_that_would_give_other_numbers_is_refused(name: str, tokenizer: Any, tmp_path: Path) -> None:
    directory = saved(tmp_path, made(name, tokenizer), tokenizer)
    with pytest.raises(BadDataError, match=REFUSED[name]) as caught:
        load.load_policy(directory, longest=LENGTH)
    assert "hoose " in caught.value.remedy


@pytest.mark.parametrize("name", [*names(with_q=False), "gemma3", "qwen3_5"])
def test_an_architecture_without_a_classifier_is_refused_by_its_config_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(BadDataError, match=REFUSED.get(name, f"no sequence classifier for the architecture '{name}'")):
        load.load_policy(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
        ("mistral", {"sliding_window": 3}),
    ],
)
def test_variants_run_as_they_run_alone(name: str, changes: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    model = made(name, tokenizer)
    config = type(model.config).from_dict(model.config.to_dict() | changes)
    torch.manual_seed(2)
    directory = saved(tmp_path / "base", AutoModelForCausalLM.from_config(config), tokenizer)
    _check_texts(load.load_policy(directory, longest=LENGTH).model, tokenizer)


def test_distances_instead_of_positions_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    """ALiBi counts columns, as Bloom's and MPT's does."""
    config = made("falcon", tokenizer).config
    config.alibi = True
    directory = saved(tmp_path, AutoModelForCausalLM.from_config(config), tokenizer)
    with pytest.raises(BadDataError, match=r"cannot be run|computes other numbers"):
        load.load_policy(directory, longest=LENGTH)
