"""Stages that sample with vLLM, with a stand-in for it: what they publish, refuse, and go on from."""

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.data.turns import read_turns
from ippo_trainer.models import memory
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.stages import samplers
from ippo_trainer.stages.runtime import run_stage
from ippo_trainer.store.artifact import fetch
from ippo_trainer.text.render import Renderer
from ippo_trainer.training import cadence

from tests.kit import fake_vllm
from tests.kit.fake_vllm import LLM
from tests.kit.tiny_models import logprobs_of, tiny_model

FUNNEL = params.EnvironmentSpec(name="sr-funnel", options={"horizon": 3})
POLICY = params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256, max_new_tokens=6)
EXPLORING = {"exploration": "0.4", "exploration_temperature": "2", "exploration_min_p": "0.1"}


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)


def collect_spec(world: Any, explorer_seed: int | None = None, **fields: Any) -> StageSpec:
    inputs = {"policy": world.put_policy(1)}
    if explorer_seed is not None:
        inputs["explorer"] = inputs["policy"] if explorer_seed == 1 else world.put_policy(explorer_seed, "explorer")
    settings = {"conversations": 12, "parallelism": 1, "batch_size": 6, "sampler": "VLLM"} | fields
    return world.spec("collect", inputs, environment=FUNNEL, policy=POLICY, collect=params.Collect(**settings))


def improve_spec(world: Any, **fields: Any) -> StageSpec:
    policy = world.put_policy()
    inputs = {"policy": policy, "q": world.put_q(policy), "data": world.put_data(world.demonstrations(24))}
    section = {"algorithm": "PPO", "updates": 2, "batch_size": 4, "samples_per_state": 2, "critic_warmup_updates": 1}
    section |= {"learning_rate": "0.003", "kl_target": "5", "sampler": "VLLM"} | fields
    return world.spec("improve", inputs, policy=POLICY, improve=params.Improve(**section))


def turns_of(world: Any, result: Any) -> list[Any]:
    folder = world.folder / "data-fetched"
    fetch(world.store, result.artifacts["data"], folder, "data")
    return [turn for each in read_turns(sorted(folder.glob("*.parquet"))) for turn in each.turns]


@pytest.mark.parametrize("explorer_seed", [None, 1, 2])
def test_collect_logs_the_logprobs_of_what_it_sampled_from(
    small_world: Any, vllm: None, explorer_seed: int | None
) -> None:
    """Without an explorer, with the policy itself as the explorer, and with another one."""
    explores = explorer_seed is not None
    spec = collect_spec(small_world, explorer_seed, **(EXPLORING if explores else {}))
    result = small_world.result(spec)
    assert result.metrics["vllmShare"] == 1.0
    assert len(LLM.engines) == (2 if explorer_seed == 2 else 1)
    assert all(engine.closed for engine in LLM.engines)
    folders = {name: small_world.folder / f"{name}-fetched" for name in ("policy", "explorer") if name in spec.inputs}
    for name, folder in folders.items():
        fetch(small_world.store, spec.inputs[name], folder, "policy")
    policies = {spec.inputs[name].digest: load_policy(folder) for name, folder in folders.items()}
    turns = turns_of(small_world, result)
    assert {turn.behaviour for turn in turns} == ({"policy", "explore"} if explores else {"policy"})
    fetched = small_world.folder / "data-fetched"
    for conversation in read_turns(sorted(fetched.glob("*.parquet"))):
        for number, turn in enumerate(conversation.turns):
            policy = policies[turn.policy_digest]
            renderer = Renderer.load(policy.directory, policy.tokenizer)
            prompt = renderer.prompt(conversation.turns[:number], turn.customer_message).ids
            explored = turn.behaviour == "explore"
            how = Sampling(1, 6, 2.0 if explored else 1.0, renderer.stop_ids, 0, None, 0.1 if explored else 0.0)
            assert turn.sampler_logprobs == pytest.approx(
                logprobs_of(policy.model, prompt, turn.token_ids, how), abs=1e-4
            )
            assert turn.suggestion == renderer.decode(turn.token_ids)[0]


def test_shards_of_both_samplers_are_joined_and_the_share_is_told(
    small_world: Any, vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Auto, where one shard ran on a GPU."""
    spec, path = collect_spec(small_world, sampler=None, parallelism=2), small_world.folder / "spec.json"
    path.write_text(spec.model_dump_json(by_alias=True))
    results = []
    for shard, sampler in enumerate(("Transformers", "VLLM")):
        monkeypatch.setattr(samplers, "sampler_of", lambda *_, sampler=sampler: sampler)
        log = small_world.folder / f"{shard}.json"
        assert run_stage(path, shard, log, small_world.folder) == 0
        results.append(json.loads(log.read_bytes()))
    assert "vllmShare" not in results[0]["metrics"]
    assert 0.2 < results[1]["metrics"]["vllmShare"] < 0.8


@pytest.mark.parametrize("stage", ["collect", "evaluate", "improve"])
def test_an_engine_that_dies_in_mid_stage_is_exit_75_and_the_stage_resumes(
    small_world: Any, vllm: None, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(cadence, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(cadence, "SAVING_SHARE", float("inf"))
    if stage == "collect":
        spec = collect_spec(small_world)
    elif stage == "improve":
        spec = improve_spec(small_world)
    else:
        inputs = {"policy": small_world.put_policy(1), "candidate": small_world.put_policy(2, "candidate")}
        collect = params.Collect(sampler="VLLM", batch_size=4)
        fields = {"environment": FUNNEL, "policy": POLICY, "collect": collect}
        spec = small_world.spec("evaluate", inputs, evaluate=params.Evaluate(conversations=4), **fields)
    expected = small_world.result(spec)
    for found in list(small_world.store.list("iterations")):
        small_world.store.delete(found.key)
    calls = sum(len(engine.asked) for engine in LLM.engines)
    LLM.engines.clear()
    for deaths in (3, 5):
        LLM.deaths = deaths
        code, message = small_world.run(spec)
        assert code == 75, message
        assert "vLLM's engine died" in message["error"]["message"]
    LLM.deaths = -1
    assert small_world.result(spec) == expected
    assert all(engine.closed for engine in LLM.engines)
    assert sum(len(engine.asked) for engine in LLM.engines) < 3 * calls  # no attempt began anew


def test_a_stop_that_kills_the_engine_too_is_a_stop(
    small_world: Any, vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches all processes of a terminal."""
    generate = LLM.generate

    def interrupted(self: LLM, *arguments: Any, **options: Any) -> Any:
        if len(self.asked) >= 6:
            os.kill(os.getpid(), signal.SIGINT)
            self.dead = True
        return generate(self, *arguments, **options)

    spec = collect_spec(small_world)
    expected = small_world.result(spec)
    for found in list(small_world.store.list("iterations")):
        small_world.store.delete(found.key)
    with monkeypatch.context() as patch:
        patch.setattr(LLM, "generate", interrupted)
        code, message = small_world.run(spec)
    assert code == 143, message
    assert small_world.result(spec) == expected


def test_improve_samples_from_the_policy_as_it_is_at_every_update(
    small_world: Any, vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then trainer and sampler differ by rounding only, and every response trains."""
    result = small_world.result(improve_spec(small_world, updates=3))
    folder = small_world.folder / "improved"
    fetch(small_world.store, result.artifacts["policy"], folder, "policy")
    training = json.loads((folder / "training.json").read_text())
    assert training["sampler"] == "VLLM"
    assert [row["untrusted_share"] for row in training["curves"]] == [0.0] * 3
    assert LLM.engines[0].resets > 4
    improved, given = load_policy(folder).model, LLM.engines[0].model
    assert any(not torch.equal(a, b) for a, b in zip(improved.parameters(), given.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (improve_spec, {"algorithm": "MPO"}, "improve.sampler is VLLM, which MPO has no use for"),
        (collect_spec, {"temperature": "2.5"}, "collect.simulate.temperature is 2.5, and vLLM samples at 0.01 to 2"),
        (
            collect_spec,
            {"explorer_seed": 1, "exploration": "0.1"},
            "collect.simulate.explorationTemperature is 3, and vLLM samples at 0.01 to 2",
        ),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_it_starts(
    small_world: Any, vllm: None, make: Any, fields: dict[str, Any], message: str
) -> None:
    code, said = small_world.run(make(small_world, **fields))
    assert (code, LLM.engines) == (64, [])
    assert message in said["error"]["message"]


@pytest.mark.parametrize(
    ("make", "field"), [(collect_spec, "collect.simulate.sampler"), (improve_spec, "improve.sampler")]
)
def test_without_vllm_the_field_and_the_image_are_named(
    small_world: Any, monkeypatch: pytest.MonkeyPatch, make: Any, field: str
) -> None:
    monkeypatch.setattr(samplers.vllm_start, "installed", lambda: False)
    spec = make(small_world)
    code, said = small_world.run(spec)
    assert code == 64
    assert f"{field} is VLLM, and there is no vLLM here" in said["error"]["message"]
    assert f"spec.pods.{spec.stage}.image" in said["error"]["message"]


@pytest.mark.parametrize("make", [collect_spec, improve_spec])
def test_a_stages_peak_counts_vllms_processes(
    vllm: None, small_world: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], make: Any
) -> None:
    """As long as they are there."""
    monkeypatch.setattr(memory, "peak_of_descendants", lambda: 0 if LLM.engines[-1].closed else 7_000_000_000)
    assert small_world.run(make(small_world))[0] == 0
    (peak,) = re.findall(r"peak memory ([0-9.]+) GB", capfd.readouterr().err)
    assert 7 < float(peak) < 10


@pytest.mark.parametrize(
    ("device", "base", "sampler", "fields", "expected"),
    [
        ("cuda", "s3://models/qwen", None, {}, "VLLM"),
        ("cuda", "s3://models/qwen", "Auto", {}, "VLLM"),
        ("cuda", "s3://models/qwen", "Transformers", {}, "Transformers"),
        ("cuda", "tiny:d16-l1-h2", None, {}, "Transformers"),
        ("cpu", "s3://models/qwen", None, {}, "Transformers"),
        ("cpu", "tiny:d16-l1-h2", "VLLM", {}, "VLLM"),
        ("cuda", "s3://models/qwen", None, {"temperature": "2.5"}, "Transformers"),
    ],
)
def test_auto_takes_vllm_on_a_gpu_for_a_base_that_is_not_tiny(
    vllm: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str,
    base: str,
    sampler: Any,
    fields: Any,
    expected: str,
) -> None:
    tiny_model("llama", 16, seed=0).save_pretrained(tmp_path)
    monkeypatch.setattr(samplers, "device_of", lambda spec: torch.device(device))
    monkeypatch.setattr(samplers, "precision_for", lambda *_: SimpleNamespace(dtype=torch.float32))
    free = [8 << 30]
    monkeypatch.setattr(samplers, "_gpu", lambda where: samplers._Gpu(8 << 30, free[0]) if device == "cuda" else None)
    spec = SimpleNamespace(
        collect=params.Collect(sampler=sampler, **fields), policy=params.Policy(base=base), stage="collect", inputs={}
    )
    ctx: Any = SimpleNamespace(spec=spec)
    assert samplers.sampler_of(ctx, tmp_path) == expected
    free[0] = 1 << 30  # others have the rest
    assert samplers.sampler_of(ctx, tmp_path) == (sampler if sampler in ("Transformers", "VLLM") else "Transformers")
    free[0] = 8 << 30
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["NewForCausalLM"]}')
    if sampler in (None, "Auto"):
        assert samplers.sampler_of(ctx, tmp_path) == "Transformers"


def test_digests_tell_the_samplers_apart_and_auto_is_nothing(small_world: Any) -> None:
    digests = {
        sampler: small_world.spec(
            "collect", {}, environment=FUNNEL, policy=POLICY, collect=params.Collect(sampler=sampler)
        ).input_digest()
        for sampler in (None, "Auto", "Transformers", "VLLM")
    }
    assert digests[None] == digests["Auto"]
    assert len(set(digests.values())) == 3
