"""The plan of memory, from a config alone: it counts what models have, and agrees with what refuses a stage."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.contract.stages import BY_NAME, NAMES
from ippo_trainer.models import adapters, budget, needs
from ippo_trainer.models.load import new_q
from ippo_trainer.models.sizing import BaseSize, size_of, stage_memory
from ippo_trainer.sft.trainer import _rows_per_forward
from transformers import AutoModelForCausalLM

from tests.kit.architectures import tiny_config

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
}
GPU = 80 << 30


def spec_of(stage: str, adapter: params.Adapter | None = None, **sections: Any) -> StageSpec:
    own = {"warm_start": params.WarmStart(demonstrations=1), "improve": params.Improve(algorithm="PPO")}
    inputs = {name: ArtifactRef(key=name, digest=digest_of(name)) for name in BY_NAME[stage].inputs}  # type: ignore[index]
    fields: dict[str, Any] = {
        "stage": stage,
        "run": "shop",
        "iteration": 2,
        "seed": 7,
        "discount": "0.95",
        "store": StoreLocation(directory="/nowhere"),
        "inputs": inputs,
        "policy": params.Policy(base="s3://models/big", adapter=adapter),
    }
    return StageSpec(**fields | own | sections)


def config_in(directory: Path, content: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "opt"])
def test_it_counts_what_models_have(tmp_path: Path, kind: str) -> None:
    config = tiny_config(kind)
    model = AutoModelForCausalLM.from_config(config)
    adapter = params.Adapter(rank=2)
    size = size_of("s3://models/x", config_in(tmp_path / kind, config.to_dict()), adapter)
    assert size.whole == sum(parameter.numel() for parameter in model.parameters())
    q = sum(parameter.numel() for parameter in new_q(model).parameters()) - config.hidden_size
    assert size.whole - size.head == q
    adapters.add(adapters.share(model), adapter, 1)
    assert size.adapter == sum(parameter.numel() for parameter in adapters.own_parameters(model))


@pytest.mark.parametrize("adapter", [None, params.Adapter()])
@pytest.mark.parametrize("stage", NAMES)
def test_what_models_take_is_what_a_stage_is_refused_by(stage: str, adapter: params.Adapter | None) -> None:
    size = BaseSize(tiny_config("llama"), 1_000_000, 0, 0 if adapter is None else 10_000)
    spec = spec_of(stage, adapter, policy=params.Policy(base="s3://a/b", adapter=adapter, precision="Float32"))
    plan = stage_memory(spec, size, GPU)
    assert plan.weights + plan.trained == needs.needed(spec, size.weights(spec), several=False, gpu=True)
    assert plan.together >= plan.weights + plan.trained
    on_cpu = stage_memory(spec, size, None)
    assert on_cpu.weights + on_cpu.trained >= needs.needed(spec, size.weights(spec), several=False, gpu=False)


def test_seven_billion_fit_on_one_gpu_with_adapters_only(tmp_path: Path) -> None:
    place = config_in(tmp_path / "qwen", QWEN_7B)
    adapted = size_of("s3://models/x", place, params.Adapter())
    assert 7.5e9 < adapted.whole < 7.7e9
    full = size_of("s3://models/x", place, None)
    for stage in NAMES:
        assert stage_memory(spec_of(stage, params.Adapter()), adapted, GPU).together < GPU, stage
    for stage in ("warm-start", "fit-q", "improve"):
        assert stage_memory(spec_of(stage), full, GPU).together > GPU, stage


def test_trl_generates_a_whole_rollout_at_once(tmp_path: Path) -> None:
    """Our sampler goes by parts, whose keys and values have a bound."""
    size = size_of("s3://models/x", config_in(tmp_path / "qwen", QWEN_7B), params.Adapter())
    cache = {
        name: [
            stage_memory(
                spec_of("improve", params.Adapter(), improve=params.Improve(algorithm=name)), size, gpu, 5
            ).cache
            for gpu in (None, GPU)
        ]
        for name in ("PPO", "GRPO")
    }
    rows, longest, layers, heads = 32 * 5 * 4, 512 + 16, 28, 4
    assert cache["GRPO"] == [rows * longest * 2 * layers * heads * 128 * width for width in (4, 2)]
    assert cache["PPO"][0] < cache["GRPO"][0]


def test_a_tiny_base_needs_no_files() -> None:
    size = size_of("tiny:d64-l2", None, params.Adapter(rank=4))
    assert size.config.hidden_size == 64
    with pytest.raises(BadSpecError, match="is no tiny model"):
        size_of("tiny:d7", None, None)


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="s3://models/x is not on this machine") as caught:
        size_of("s3://models/x", None, None)
    assert "--config" in caught.value.remedy
    with pytest.raises(BadDataError, match="there is no folder"):
        size_of(f"file://{tmp_path}/none", None, None)
    with pytest.raises(BadDataError, match=r"has no config\.json"):
        size_of(f"file://{tmp_path}", None, None)
    with pytest.raises(BadDataError, match="is no causal language model"):
        size_of("s3://models/x", config_in(tmp_path / "t5", {"model_type": "t5"}), None)
    place = config_in(tmp_path / "qwen", QWEN_7B)
    with pytest.raises(BadSpecError, match=r"policy\.adapter\.rank 600 is larger than the layer k_proj"):
        size_of("s3://models/x", place, params.Adapter(rank=600))


@pytest.mark.parametrize("batch", [1, 16, 64, 4096])
@pytest.mark.parametrize("base", ["tiny:d32-l1", "tiny:d64-l2", "tiny:d512-l8"])
def test_a_warm_start_takes_what_its_largest_forward_takes(base: str, batch: int) -> None:
    """Of rows of any length. For a small base that is a whole batch, far below the budget of activations."""
    size = size_of(base, None, None)
    section = params.WarmStart(demonstrations=1, batch_size=batch)
    planned = stage_memory(spec_of("warm-start", warm_start=section), size, None).activations
    allowed, longest = budget.warm_start_tokens(size.config), 512 + 16
    forwards = [_rows_per_forward(batch, length, allowed) * length for length in range(1, longest + 1)]
    assert planned >= max(forwards) * 12 * size.config.vocab_size
    if forwards[-1] == batch * longest:
        assert planned == forwards[-1] * (budget.warm_start_token_bytes(size.config) + 12 * size.config.vocab_size)


@pytest.mark.parametrize("gpu", [None, GPU])
def test_vllm_counts_where_it_samples(gpu: int | None, tmp_path: Path) -> None:
    size = size_of("s3://models/x", config_in(tmp_path / "qwen", QWEN_7B), params.Adapter())
    item = 4 if gpu is None else 2
    sampled = {
        "environment": params.EnvironmentSpec(name="sr-funnel"),
        "improve": params.Improve(algorithm="PPO", sampler="VLLM"),
    }
    for stage, exploration, engines in (
        ("collect", "0", 1),
        ("collect", "0.1", 2),
        ("evaluate", "0", 1),
        ("improve", "0", 1),
    ):
        collect = params.Collect(sampler="VLLM", exploration=exploration)
        plan = stage_memory(spec_of(stage, params.Adapter(), collect=collect, **sampled), size, gpu)
        ours = sampled | {
            "improve": params.Improve(algorithm="PPO"),
            "collect": params.Collect(exploration=exploration),
        }
        own = stage_memory(spec_of(stage, params.Adapter(), **ours), size, gpu)
        assert own.engine == plan.cache == 0
        assert plan.weights == (0 if stage == "collect" else own.weights)
        assert engines * item * size.whole < plan.engine <= engines * (item * size.whole + (50 << 30))
        assert gpu is None or plan.together < gpu
    assert stage_memory(spec_of("fit-q", params.Adapter(), collect=collect, **sampled), size, gpu).engine == 0
