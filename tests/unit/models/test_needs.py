"""Whether there is memory for a stage's models: a lower bound by stage, and what is said where it is too little."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.models import engine_memory, memory, needs
from ippo_trainer.models.load import new_q
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

MEBIBYTE = 1 << 20
HELD = 300 * MEBIBYTE
REF = ArtifactRef(key="iterations/0001/given/0123", digest="sha256:" + "0" * 64)


APART = {"policy": REF, "explorer": ArtifactRef(key=REF.key, digest="sha256:" + "1" * 64)}


def spec_of(stage: str, **sections: Any) -> StageSpec:
    fields = {
        "stage": stage,
        "run": "shop",
        "iteration": 1,
        "seed": 7,
        "discount": "0.95",
        "store": StoreLocation(directory="/nowhere"),
        "inputs": dict.fromkeys(("policy", "explorer", "candidate", "q", "previousQ", "data"), REF),
        "policy": params.Policy(base="s3://models/big"),
    }
    return StageSpec(**{**fields, **sections})


FUNNEL = params.EnvironmentSpec(name="sr-funnel")
PPO, MPO, GRPO = (params.Improve(algorithm=name) for name in ("PPO", "MPO", "GRPO"))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many bytes the container has; the process holds HELD of them."""
    monkeypatch.setattr(memory, "held", lambda: HELD)
    return lambda limit: monkeypatch.setattr(memory, "memory_limit", lambda: limit)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (spec_of("warm-start", warm_start=params.WarmStart()), {"base": (4, 0)}),
        (spec_of("warm-start"), {"base": (0, 1)}),
        (spec_of("collect", collect=params.Collect(exploration="0.1")), {"policy": (0, 1)}),
        (spec_of("collect", collect=params.Collect(exploration="0.1"), inputs=APART), dict.fromkeys(APART, (0, 1))),
        (spec_of("collect", collect=params.Collect(exploration="0"), inputs=APART), {"policy": (0, 1)}),
        (spec_of("fit-q", fit_q=params.FitQ()), {"policy": (4.5, 1)}),
        (spec_of("fit-q", fit_q=params.FitQ(lm_loss_weight="0")), {"policy": (2.5, 1)}),
        (spec_of("fit-q", fit_q=params.FitQ(init_from="PreviousQ")), {"policy": (0, 1), "previousQ": (5, 0)}),
        (spec_of("fit-q", fit_q=params.FitQ(init_from="PreviousQ"), inputs={"policy": REF}), {"policy": (4.5, 1)}),
        (spec_of("improve", improve=PPO), {"policy": (5, 0, 2), "q": (3, 1)}),
        (spec_of("improve", collect=params.Collect()), {"policy": (5, 0, 2), "q": (3, 1)}),
        (spec_of("improve", improve=MPO), {"policy": (5, 0, 2), "q": (0, 1)}),
        (spec_of("improve", collect=params.Collect(exploration="0.1")), {"policy": (5, 0, 2), "q": (0, 1)}),
        (
            spec_of("improve", improve=MPO, inputs=APART | {"q": REF}),
            {"policy": (5, 0, 2), "q": (0, 1), "explorer": (0, 1)},
        ),
        (
            spec_of("improve", improve=params.Improve(algorithm="MPOThenPPO"), inputs=APART | {"q": REF}),
            {"policy": (7, 0, 2), "q": (3, 1), "explorer": (0, 1)},
        ),
        (spec_of("improve", improve=GRPO, inputs=APART | {"q": REF}), {"policy": (5, 0, 2), "q": (0, 1)}),
        (spec_of("evaluate", environment=FUNNEL), {"candidate": (0, 1), "policy": (0, 1)}),
        (spec_of("evaluate"), {"candidate": (0, 1), "policy": (0, 1), "q": (0, 1)}),
    ],
)
def test_how_often_models_are_held(spec: StageSpec, expected: dict[str, tuple[float, ...]]) -> None:
    assert needs.copies(spec) == {name: needs.Copies(*counts) for name, counts in expected.items()}


ADAPTED = params.Policy(base="s3://models/big", adapter=params.Adapter())


@pytest.mark.parametrize(
    ("stage", "sections", "expected"),
    [
        ("warm-start", {"warm_start": params.WarmStart()}, {"base": (0, 1, 1), "adapter": (4, 0)}),
        ("warm-start", {}, {"base": (0, 1)}),
        ("collect", {"collect": params.Collect()}, {"base": (0, 1), "policy": (0, 1)}),
        ("fit-q", {"fit_q": params.FitQ()}, {"base": (0, 1, 1), "policy": (4.5, 1)}),
        ("improve", {"improve": PPO}, {"base": (0, 1, 1), "policy": (5, 0, 2), "q": (3, 1)}),
        ("improve", {"improve": MPO}, {"base": (0, 1, 1), "policy": (5, 0, 2), "q": (0, 1)}),
        ("evaluate", {"environment": FUNNEL}, {"base": (0, 1), "candidate": (0, 1), "policy": (0, 1)}),
    ],
)
def test_a_base_of_adapters_counts_once(stage: str, sections: Any, expected: dict[str, tuple[float, ...]]) -> None:
    spec = spec_of(stage, policy=ADAPTED, **sections)
    assert needs.copies(spec) == {name: needs.Copies(*counts) for name, counts in expected.items()}


def test_several_processes_hold_at_least_both_copies_before_they_divide_them() -> None:
    assert needs.copies(spec_of("improve", improve=PPO), several=True) == dict.fromkeys(
        ("policy", "q"), needs.Copies(1)
    )
    assert needs.copies(spec_of("improve", improve=MPO), several=True) == {
        "policy": needs.Copies(1),
        "q": needs.Copies(0),
    }


@pytest.mark.parametrize("tied", [True, False])
def test_a_q_has_at_least_half_of_its_policys_weights(tied: bool) -> None:
    """Which is what fit-q without the auxiliary loss is sure to train, even where nearly all are in the vocabulary."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=1000, tie_word_embeddings=tied, **sizes))
    weights, of_q = (sum(p.numel() for p in model.parameters()) for model in (policy, new_q(policy)))
    assert of_q >= weights / 2


FIELDS = {
    "warm-start": "warmStart",
    "collect": "collect",
    "fit-q": "fitQ",
    "improve": "improve",
    "evaluate": "evaluate",
}
POLICY, Q = 100 * MEBIBYTE, 50 * MEBIBYTE


@pytest.mark.parametrize(
    ("stage", "weights", "least"),
    [
        ("warm-start", {"base": POLICY}, HELD + 4 * POLICY),
        ("collect", {"policy": POLICY}, POLICY),
        ("fit-q", {"policy": POLICY}, HELD + 9 * POLICY // 2),
        ("improve", {"policy": POLICY, "q": Q}, HELD + 7 * POLICY + 3 * Q),
        ("evaluate", {"policy": POLICY}, POLICY),
    ],
)
def test_a_stage_is_refused_by_the_byte_and_told_what_to_raise(
    room: Any, stage: str, weights: dict[str, int], least: int
) -> None:
    spec = spec_of(stage, warm_start=params.WarmStart(), improve=PPO)
    room(least)
    needs.check(spec, weights)
    room(least - 1)
    with pytest.raises(BadDataError) as caught:
        needs.check(spec, weights)
    error = caught.value
    where = "policy.base s3://models/big" if stage == "warm-start" else "policy iterations/0001/given/0123"
    assert f"no room for {where} (100 MiB)" in error.message
    assert ("q iterations/0001/given/0123 (50 MiB)" in error.message) == (stage == "improve")
    assert f"{stage} needs at least {least >> 20} MiB of memory" in error.message
    assert f"this container or machine has {(least >> 20) - 1} MiB" in error.message
    assert error.remedy.startswith(f"Raise spec.pods.{FIELDS[stage]}.resources.limits.memory; where nothing limits")


def test_where_the_memory_is_not_known_nothing_is_refused(room: Any) -> None:
    room(None)
    needs.check(spec_of("improve"), {"policy": 1 << 50, "q": 1 << 50})


def test_a_base_that_is_not_trained_counts_once(room: Any) -> None:
    room(POLICY)
    needs.check(spec_of("warm-start"), {"base": POLICY})
    with pytest.raises(BadDataError, match="warm-start needs at least 101 MiB"):
        needs.check(spec_of("warm-start"), {"base": POLICY + 1})


CONFIG = LlamaConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2).to_dict()
SAMPLED = {
    "collect": {"environment": FUNNEL, "collect": params.Collect(sampler="VLLM")},
    "collect, exploring": {
        "environment": FUNNEL,
        "collect": params.Collect(sampler="VLLM", exploration="0.1"),
        "inputs": APART,
    },
    "improve": {"improve": params.Improve(algorithm="PPO", sampler="VLLM")},
    "evaluate": {"environment": FUNNEL, "collect": params.Collect(sampler="VLLM")},
}


@pytest.mark.parametrize("name", SAMPLED)
def test_vllm_counts_where_a_stage_is_told_to_sample_with_it(room: Any, name: str) -> None:
    """By the function that the plan and the stage itself ask: with its processes, cache and weights."""
    spec = spec_of(name.partition(",")[0], **SAMPLED[name])
    weights = dict.fromkeys(needs.copies(spec), POLICY)
    config = AutoConfig.for_model(**CONFIG)
    one = engine_memory.memory_of(spec, config, POLICY // 4, torch.float32, None)
    assert one.weights == POLICY
    own = {"improve": HELD + 10 * POLICY, "evaluate": POLICY}.get(name, 0)
    least = own + one.together * (2 if name == "collect, exploring" else 1)
    room(least)
    needs.check(spec, weights, CONFIG)
    room(least - 1)
    with pytest.raises(BadDataError, match=f"{spec.stage} needs at least"):
        needs.check(spec, weights, CONFIG)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 700 MiB, of an older generation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = SimpleNamespace(total_memory=700 * MEBIBYTE)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_its_own_memory_counts_and_not_the_hosts(room: Any) -> None:
    room(MEBIBYTE)
    needs.check(spec_of("fit-q"), {"policy": 127 * MEBIBYTE})
    with pytest.raises(BadDataError, match=r"at least 704 MiB of memory, this GPU has 700 MiB") as caught:
        needs.check(spec_of("fit-q"), {"policy": 128 * MEBIBYTE})
    assert "spec.pods.fitQ a larger GPU" in caught.value.remedy


@pytest.mark.usefixtures("gpu")
def test_a_gpu_holds_all_models_that_are_only_read() -> None:
    """A CPU maps them from their files."""
    sizes = {"candidate": 400 * MEBIBYTE, "policy": 300 * MEBIBYTE}
    needs.check(spec_of("evaluate"), sizes)
    with pytest.raises(BadDataError, match=r"evaluate needs at least 701 MiB of memory, this GPU has 700 MiB"):
        needs.check(spec_of("evaluate"), sizes | {"policy": 301 * MEBIBYTE})


@pytest.mark.usefixtures("gpu")
def test_in_bfloat16_a_gpu_holds_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained as fp32 in two halves with its moments, what is read at half its size."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    needs.check(spec_of("improve"), {"policy": 100 * MEBIBYTE, "q": 100 * MEBIBYTE})
    with pytest.raises(BadDataError, match=r"improve needs at least 1[0-9]{3} MiB of memory, this GPU has 700 MiB"):
        needs.check(spec_of("improve"), {"policy": 200 * MEBIBYTE, "q": 200 * MEBIBYTE})
    needs.check(spec_of("evaluate"), dict.fromkeys(("candidate", "policy", "q"), 400 * MEBIBYTE))


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_not_used_does_not_count(room: Any) -> None:
    room(MEBIBYTE)
    for spec, name in ((spec_of("collect", device="cpu"), "policy"), (spec_of("warm-start"), "base")):
        with pytest.raises(BadDataError, match="this container or machine has 1 MiB"):
            needs.check(spec, {name: 2 * MEBIBYTE})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "consolidated.safetensors", "model-00001-of-00001.safetensors"], ["model.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["original/model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"], []),
    ],
)
def test_only_what_is_loaded_counts(names: list[str], expected: list[str]) -> None:
    assert memory.weight_files(names) == expected
    assert memory.stored_bytes(dict.fromkeys(names, 7)) == 7 * len(expected)


def test_half_precision_doubles_in_memory(tmp_path: Path) -> None:
    assert memory.loaded_bytes(tmp_path) == 0
    for name in ("model.safetensors", "consolidated.safetensors"):
        entry = {"dtype": "BF16", "shape": [10, 100], "data_offsets": [0, 2000]}
        header = json.dumps({"w": entry}).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(2000))
    assert memory.loaded_bytes(tmp_path) == 4000


def test_what_a_process_holds_is_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmRSS:\t  900 kB\nRssAnon:\t     3 kB\nRssFile:\t  897 kB\n")
    assert memory.held(tmp_path / "status") == 3 << 10
    assert memory.held(tmp_path / "absent") == 0


def test_processes_that_a_stage_started_count_with_their_own_peaks(tmp_path: Path) -> None:
    """Also those that these have started, as vLLM's workers; nobody else's."""
    for process, parent, peak in ((1, 0, 900), (7, 1, 500), (8, 7, 30), (9, 8, 4), (10, 1, 700), (11, 7, 200)):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / "status").write_text(f"PPid:\t{parent}\nVmHWM:\t   {peak} kB\nVmRSS:\t 1 kB\n")
    (tmp_path / "self").mkdir()
    assert memory.peak_of_descendants(tmp_path, 7) == (30 + 4 + 200) << 10
    assert memory.peak_of_descendants(tmp_path, 9) == 0
    assert memory.peak_of_descendants(tmp_path / "absent", 7) == 0
