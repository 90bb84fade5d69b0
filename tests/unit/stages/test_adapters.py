"""All five stages with adapters: what they publish, what they hold, how they resume, and what they refuse."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import BY_TRL
from ippo_trainer.contract.layout import BASE
from ippo_trainer.contract.spec import ArtifactRef, StageSpec
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.rollout import rollout
from ippo_trainer.models import adapters, load, memory
from ippo_trainer.models.load import build_tiny, load_policy
from ippo_trainer.models.packing import Group, pack
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.serve.loading import load as load_served
from ippo_trainer.serve.settings import ServerSettings
from ippo_trainer.stages import base_model, collect
from ippo_trainer.stages import train as training
from ippo_trainer.store import artifact
from ippo_trainer.store.artifact import fetch, publish, read_manifest
from ippo_trainer.store.fetch import main as fetch_command
from ippo_trainer.text.tokenizer import build_tokenizer
from safetensors.torch import load_file

from tests.kit.live_tensors import alive

ADAPTER = params.Adapter(rank=4)
IMPROVE = {
    "PPO": params.Improve(
        algorithm="PPO", updates=2, critic_warmup_updates=2, batch_size=4, samples_per_state=2, kl_target="9"
    ),
    **{
        name: params.Improve(algorithm=name, updates=2, batch_size=4, samples_per_state=2, kl_target="9")
        for name in BY_TRL
    },
    "MPO": params.Improve(
        algorithm="MPO",
        mpo=params.Mpo(conversations=8, own_candidates=3, explored_candidates=5, epochs=2, batch_size=4),
        kl_target="9",
    ),
}
SECTIONS: dict[str, dict[str, Any]] = {
    "warm-start": {"warm_start": params.WarmStart(demonstrations=40, epochs=2, batch_size=8, learning_rate="0.01")},
    "collect": {"collect": params.Collect(conversations=12, parallelism=1, exploration="0.5")},
    "fit-q": {"fit_q": params.FitQ(epochs=2, holdout="0.5", batch_size=8)},
    "improve": {"improve": IMPROVE["PPO"]},
    "evaluate": {"evaluate": params.Evaluate(conversations=6)},
}


def policy_of(base: str, adapter: params.Adapter = ADAPTER) -> params.Policy:
    return params.Policy(base=base, max_prompt_tokens=256, max_new_tokens=8, adapter=adapter)


@pytest.fixture
def pretrained(small_world: Any) -> str:
    """A whole model of a user's own, some of whose files are of no use here."""
    texts = [text for each in small_world.demonstrations(60) for turn in each.turns for text in (turn.sent_message,)]
    texts += [turn.customer_message for each in small_world.demonstrations(60) for turn in each.turns]
    tokenizer = build_tokenizer(texts)
    directory: Path = small_world.folder / "pretrained"
    build_tiny("tiny:d16-l1-h2", tokenizer, 4).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text("mine")
    return f"file://{directory}"


def halved(conversations: Sequence[Conversation]) -> Sequence[Conversation]:
    """Every second one has the outcome."""
    for number, conversation in enumerate(conversations):
        conversation.outcome = number % 2 == 0
    return conversations


def spec_of(world: Any, stage: str, adapter: params.Adapter = ADAPTER, **changes: Any) -> StageSpec:
    """Of a stage in the middle of a run, with adapters that are random."""
    policy = world.put_policy(adapter=adapter)
    candidate = world.put_policy(1, "candidate", adapter)
    inputs = {"policy": policy, "candidate": candidate, "explorer": candidate, "q": world.put_q(policy)}
    inputs["data"] = world.put_data(halved(world.demonstrations(24)))
    if stage == "collect":
        del inputs["data"]
    sections = {"policy": policy_of("tiny:d16-l1-h2"), **SECTIONS[stage]} | changes
    spec: StageSpec = world.spec(stage, inputs, **sections)
    return spec


def files_of(world: Any, ref: ArtifactRef) -> list[str]:
    return sorted(entry.path for entry in read_manifest(world.store, ref).files)


def bases(world: Any) -> set[str]:
    return {entry.key.rpartition("/")[0] for entry in world.store.list(BASE)}


@pytest.mark.parametrize("base", ["pretrained", "tiny:d16-l1-h2"])
def test_a_whole_iteration_on_one_base(small_world: Any, base: str, request: pytest.FixtureRequest) -> None:
    """Every model names the base, which is there once, has the user's weights, and never changes."""
    world, source = small_world, None
    if base == "pretrained":
        base = request.getfixturevalue("pretrained")
        source = Path(base.removeprefix("file://"))
    start = world.result(world.spec("warm-start", {}, iteration=0, policy=policy_of(base), **SECTIONS["warm-start"]))
    policy = start.artifacts["policy"]
    [place] = bases(world)
    base_digest = read_manifest(world.store, policy).inputs["base"]
    assert place.startswith(BASE)
    assert base_digest.removeprefix("sha256:").startswith(place.rpartition("/")[2])
    weights = load_file(world.folder / "store" / place / "model.safetensors")
    if source is not None:
        assert not (world.folder / "store" / place / "README.md").exists()
        expected = load_file(source / "model.safetensors")
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    made = {"policy": policy, "explorer": policy}
    for stage in ("collect", "fit-q", "improve", "evaluate"):
        result = world.result(world.spec(stage, made, policy=policy_of(base), **SECTIONS[stage]))
        made |= {"candidate": result.artifacts["policy"]} if stage == "improve" else result.artifacts
        if stage == "collect":  # what so young a policy says sells nothing
            world.policy = policy
            made["data"] = world.put_data(halved(world.demonstrations(24)))
    for name in ("policy", "candidate", "q"):
        assert "adapter_model.safetensors" in files_of(world, made[name])
        assert "model.safetensors" not in files_of(world, made[name])
        assert read_manifest(world.store, made[name]).inputs["base"] == base_digest
    assert bases(world) == {place}
    after = load_file(world.folder / "store" / place / "model.safetensors")
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    # In its place in the store a policy finds its base, as `ippo exact` looks for it.
    one, two = (load_policy(world.folder / "store" / made[name].key, longest=24) for name in ("policy", "candidate"))
    assert not torch.equal(*(model.model(torch.tensor([[5, 6, 7]])).logits for model in (one, two)))


CASES = [("warm-start", "PPO"), ("fit-q", "PPO"), ("improve", "PPO"), ("improve", "MPO"), ("improve", "GRPO")]


@pytest.mark.parametrize(("stage", "algorithm"), CASES, ids=[" ".join(case) for case in CASES])
def test_killed_it_resumes_to_the_same_bytes(small_world: Any, pretrained: str, stage: str, algorithm: str) -> None:
    if stage == "warm-start":
        spec = small_world.spec(stage, {}, iteration=0, policy=policy_of(pretrained), **SECTIONS[stage])
    else:
        sections = {"improve": IMPROVE[algorithm]} if stage == "improve" else {}
        spec = spec_of(small_world, stage, **sections)
    whole = small_world.result(spec)
    folder = {"fit-q": "iterations/0001/q", "improve": "iterations/0001/policy"}.get(stage, "iterations/0000/policy")
    small_world.store.delete(f"{folder}/result.json")
    for at_put in (6, 12):
        small_world.kill_at_put(spec, at_put)
    assert list(small_world.store.list(f"{folder}/checkpoint"))
    assert small_world.result(spec) == whole


def test_a_checkpoint_holds_what_is_trained_only(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, int] = {}
    save = training.checkpoint.save

    def measured(directory: Path, *rest: Any) -> None:
        save(directory, *rest)
        sizes.update({path.name: path.stat().st_size for path in directory.iterdir()})

    monkeypatch.setattr(training.checkpoint, "save", measured)
    monkeypatch.setattr("ippo_trainer.training.cadence.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("ippo_trainer.training.cadence.SAVING_SHARE", float("inf"))
    spec = spec_of(small_world, "improve")
    small_world.result(spec)
    adapter = read_manifest(small_world.store, spec.inputs["policy"]).sizes()["adapter_model.safetensors"]
    assert {"policy.safetensors", "safe.safetensors", "critic.safetensors"} <= sizes.keys()
    assert sizes["policy.safetensors"] < 1.2 * adapter
    assert sizes["critic.safetensors"] < 1.2 * adapter
    assert sizes["policy-optimiser.safetensors"] < 3 * adapter


WIDE = "tiny:d128-l2"
"""Large beside a batch and beside its adapters."""


@pytest.mark.usefixtures("young")
@pytest.mark.parametrize("stage", ["collect", "fit-q", "improve", "improve MPO"])
def test_the_base_is_there_once(small_world: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In conversations and at any step of an optimiser, beside small adapters, gradients, moments and a batch."""
    stage, _, algorithm = stage.partition(" ")
    more = {"improve": IMPROVE["MPO"]} if algorithm else {}
    small_world.base = WIDE
    spec = spec_of(small_world, stage, adapter=params.Adapter(rank=1), **more)
    [base] = [entry.size for entry in small_world.store.list(BASE) if entry.key.endswith("model.safetensors")]
    loads, peak = [], [0]

    def measured(function: Any) -> Any:
        def run(*rest: Any, **options: Any) -> Any:
            peak[0] = max(peak[0], alive())
            return function(*rest, **options)

        return run

    def counted(factory: Any, directory: Path, plain: Any = load._load) -> Any:
        loads.append(directory.name)
        return plain(factory, directory)

    monkeypatch.setattr(load, "_load", counted)
    monkeypatch.setattr(torch.optim.AdamW, "step", measured(torch.optim.AdamW.step))
    monkeypatch.setattr(collect, "rollout", measured(rollout))
    small_world.result(spec)
    assert len(loads) == 1
    assert base < peak[0] < 1.5 * base, (base, peak[0])


def test_a_stage_counts_the_base_once_before_the_download(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(small_world, "improve")
    [base] = [entry.size for entry in small_world.store.list(BASE) if entry.key.endswith("model.safetensors")]
    sizes = {name: read_manifest(small_world.store, spec.inputs[name]).sizes() for name in ("policy", "q")}
    own = {name: each["adapter_model.safetensors"] for name, each in sizes.items()}
    monkeypatch.setattr(memory, "held", lambda: 0)
    need = base + 7 * own["policy"] + 3 * own["q"]
    monkeypatch.setattr(memory, "memory_limit", lambda: need - 1)
    code, message = small_world.run(spec)
    assert (code, "improve needs at least 1 MiB" in message["error"]["message"]) == (65, True), message
    monkeypatch.setattr(memory, "memory_limit", lambda: need)
    small_world.result(spec)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (params.Adapter(rank=64), "policy.adapter.rank 64 is larger than the layer"),
        (params.Adapter(rank=4, target_modules=("nothing",)), "the base has no linear layer nothing"),
    ],
)
@pytest.mark.parametrize("base", ["pretrained", "tiny:d16-l1-h2"])
def test_what_does_not_fit_is_refused_before_work(
    small_world: Any, base: str, adapter: params.Adapter, message: str, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue("pretrained") if base == "pretrained" else base
    spec = small_world.spec("warm-start", {}, iteration=0, policy=policy_of(base, adapter), **SECTIONS["warm-start"])
    code, said = small_world.run(spec)
    assert (code, message in said["error"]["message"]) == (64, True), said
    assert not bases(small_world)


def test_models_of_two_bases_do_not_work_together(small_world: Any) -> None:
    """As where the artifacts of two runs were mixed."""
    spec = spec_of(small_world, "improve")
    place = small_world.folder / "other"
    fetch(small_world.store, spec.inputs["q"], small_world.folder / "copy", "q")
    [base] = (small_world.folder / "copy" / BASE).iterdir()
    place.mkdir()
    for path in base.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    (place / "chat_template.jinja").write_text("{{ messages }}")
    other = publish(small_world.store, BASE, place, "base")
    directory = small_world.folder / "q"
    config = json.loads((directory / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": other.key, "revision": other.digest}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    q = publish(small_world.store, "given/other-q", directory, "q", {"base": other.digest})
    code, message = small_world.run(spec.model_copy(update={"inputs": spec.inputs | {"q": q}}))
    assert (code, f"is for the base {other.digest}" in message["error"]["message"]) == (65, True), message


@pytest.mark.parametrize("stage", ["collect", "fit-q", "improve", "improve MPO", "evaluate"])
def test_in_bfloat16_models_share_a_base_as_well(small_world: Any, stage: str) -> None:
    """Those that are loaded later find the base cast already."""
    stage, _, algorithm = stage.partition(" ")
    more = {"improve": IMPROVE["MPO"]} if algorithm else {}
    policy = policy_of("tiny:d16-l1-h2").model_copy(update={"precision": "BFloat16"})
    result = small_world.result(spec_of(small_world, stage, policy=policy, **more))
    for ref in result.artifacts.values():
        if "adapter_model.safetensors" in files_of(small_world, ref):
            tensors = load_file(small_world.folder / "store" / ref.key / "adapter_model.safetensors")
            assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_without_a_warm_start_the_policy_is_the_base(small_world: Any, pretrained: str) -> None:
    result = small_world.result(small_world.spec("warm-start", {}, iteration=0, policy=policy_of(pretrained)))
    loaded = load_policy(small_world.folder / "store" / result.artifacts["policy"].key, longest=24).model
    base = load_policy(Path(pretrained.removeprefix("file://")), longest=24).model
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, base(ids).logits)


def test_what_is_served_is_what_was_trained(small_world: Any) -> None:
    """Fetched as a server's pod does: the same log-probabilities to the bit, and within rounding once merged."""
    policy = small_world.put_policy(3, adapter=ADAPTER)
    packed = pack([Group([5, 6, 7, 8], [[9, 10, 11], [12]])])
    trained = load_policy(small_world.folder / "store" / policy.key, longest=24).model
    expected = token_logprobs(trained, packed).logprobs
    command = ["--store", small_world.location.model_dump_json(by_alias=True, exclude_none=True), "--kind", "policy"]
    command += ["--key", policy.key, "--digest", policy.digest, "--fits-memory"]
    for name, more in (("model", []), ("merged", ["--merged"])):
        place = small_world.folder / "server" / name
        assert fetch_command([*command, "--to", str(place), *more]) == 0
        served = load_served(ServerSettings(place, "Transformers", 8, 4, policy.digest, "small"))
        model = served.engine._slots.model  # type: ignore[attr-defined]
        logprobs = token_logprobs(model, packed).logprobs
        assert adapters.is_adapted(model) == (name == "model")
        assert (logprobs - expected).abs().max() <= (0.0 if name == "model" else 1e-5)
        assert served.renderer.max_prompt_tokens == 256


@pytest.mark.parametrize("stage", ["collect", "fit-q", "improve", "evaluate"])
def test_a_base_from_a_cache_is_as_good_as_a_downloaded_one(
    small_world: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same result to the last bit, and the next stage downloads no base."""
    spec = spec_of(small_world, stage)
    given = {entry.key for entry in small_world.store.list("")}

    def again() -> Any:
        for entry in list(small_world.store.list("")):
            if entry.key not in given:
                small_world.store.delete(entry.key)
        return small_world.result(spec)

    downloaded = small_world.result(spec)
    cache = small_world.folder / "cache"
    cache.mkdir()
    monkeypatch.setenv("IPPO_BASE_CACHE", str(cache))
    assert again() == downloaded
    [kept] = [path for path in cache.iterdir() if path.is_dir()]
    monkeypatch.setattr(artifact, "_download", refuse_bases(artifact._download))
    assert again() == downloaded
    assert sorted(path.name for path in cache.iterdir()) == sorted([kept.name, f".{kept.name}.lock"])


def refuse_bases(download: Any) -> Any:
    """Downloads anything but bases."""

    def downloaded(store: Any, ref: ArtifactRef, *rest: Any) -> Any:
        assert not ref.key.startswith(BASE)
        return download(store, ref, *rest)

    return downloaded


def in_a_store(world: Any, ref: ArtifactRef, scheme: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an artifact, as a user would write it."""
    if scheme == "file":
        return f"file://{world.folder}/store/{ref.key}/"
    key = f"iterations/0001/policy/{ref.key.rpartition('/')[2]}"
    shutil.copytree(world.folder / "store" / ref.key, world.folder / "store" / key, dirs_exist_ok=True)
    monkeypatch.setattr(base_model, "open_store", lambda location: world.store)
    return f"s3://models/of/a/run/{key}/"


@pytest.mark.parametrize("scheme", ["file", "s3"])
@pytest.mark.parametrize("adapter", [ADAPTER, None], ids=["adapter", "whole"])
def test_a_policy_of_another_run_is_a_base(
    small_world: Any, adapter: params.Adapter | None, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with its adapter merged, fits its base's memory, and writes what it wrote, with new adapters too."""
    of_a_run = small_world.put_policy(1, "candidate", ADAPTER)
    place = small_world.folder / "store" / of_a_run.key
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = load_policy(place, longest=24).model(ids).logits
    base = in_a_store(small_world, of_a_run, scheme, monkeypatch)
    spec = small_world.spec("warm-start", {}, iteration=0, policy=policy_of(base, adapter))
    result = small_world.result(spec)
    assert result.warnings is None
    fetch(small_world.store, result.artifacts["policy"], small_world.folder / "again", "policy")
    with torch.no_grad():
        logits = load_policy(small_world.folder / "again", longest=24).model(ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_a_policy_as_a_base_is_measured_with_its_base_before_the_download(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_run = small_world.put_policy(1, "candidate", ADAPTER)
    base = in_a_store(small_world, of_a_run, "s3", monkeypatch)
    monkeypatch.setattr(base_model.artifact, "fetch", lambda *_: pytest.fail("downloaded"))
    monkeypatch.setattr(memory, "held", lambda: 0)
    monkeypatch.setattr(memory, "memory_limit", lambda: 1)
    spec = small_world.spec("warm-start", {}, iteration=0, policy=policy_of(base))
    code, message = small_world.run(spec)
    assert (code, f"no room for policy.base {base}" in message["error"]["message"]) == (65, True), message


def test_a_policy_whose_base_is_gone_is_refused_as_a_base(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of_a_run = small_world.put_policy(1, "candidate", ADAPTER)
    for entry in list(small_world.store.list(BASE)):
        small_world.store.delete(entry.key)
    for scheme in ("file", "s3"):
        base = in_a_store(small_world, of_a_run, scheme, monkeypatch)
        code, message = small_world.run(small_world.spec("warm-start", {}, iteration=0, policy=policy_of(base)))
        assert (code, f"{BASE}/" in message["error"]["message"]) == (65, True), message
