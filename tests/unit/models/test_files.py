"""What a model's directory holds: what is downloaded of it, what is refused, what is said."""

import json
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("weights", [["model.safetensors"], [*SHARDS, INDEX]])
def test_a_whole_model_is_taken(weights: list[str]) -> None:
    files.check_files([*weights, "config.json", "pytorch_model.bin", "consolidated.safetensors"], "base")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.safetensors", "adapter_config.json"], r"adapter \(adapter_config\.json\).*Merge it"),
        (["model.safetensors", "adapter_model.safetensors"], r"adapter \(adapter_model\.safetensors\).*Merge it"),
        (["model.safetensors", "adapter_model.bin"], r"adapter .*Merge it"),
        (["adapter_config.json", "adapter_model.safetensors"], r"adapter .*Merge it"),
        (SHARDS, r"in parts .* without model\.safetensors\.index\.json"),
        ([*SHARDS, INDEX, "model.safetensors"], r"one of two models"),
        (["pytorch_model.bin"], r"only pickled weights \(pytorch_model\.bin\).*Convert"),
        (["model.fp16.safetensors"], r"no model\.safetensors, but model\.fp16\.safetensors"),
        (["original/model.safetensors", "config.json"], r"no model\.safetensors, but original"),
        ([], "no weights"),
    ],
)
def test_what_cannot_be_loaded_whole_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(BadDataError, match=rf"s3://models/base .*{words}"):
        files.check_files(names, "s3://models/base")


def test_what_is_not_loaded_is_said(tmp_path: Path) -> None:
    for name in ("model.safetensors", "consolidated.safetensors", "value_head.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "repetition_penalty": 1.0}))
    assert files.unheeded(tmp_path) == ["value_head.safetensors is not loaded"]
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "mine.Model"}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3, "suppress_tokens": [5]}))
    _, code, settings = files.unheeded(tmp_path)
    assert "auto_map" in code
    assert "repetition_penalty, suppress_tokens: the policy is sampled and trained without" in settings
    for name, value in (("stop_strings", ["###"]), ("guidance_scale", 2.0), ("watermarking_config", {"bias": 2.0})):
        (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
        assert f"sets {name}:" in files.unheeded(tmp_path)[-1]


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadDataError, match=r"^config\.json in "):
        files.read_config(tmp_path)
