"""A stage whose models do not fit into the memory ends before it downloads any."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.spec import ArtifactRef, StageSpec
from ippo_trainer.models import memory
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.store import uri
from ippo_trainer.store.artifact import publish
from ippo_trainer.store.local import LocalStore

MEBIBYTE = 1 << 20
POLICY, Q = 3 * MEBIBYTE, 2 * MEBIBYTE
HEADER = 256
"""Bytes of a file of weights that are none."""


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What local stores were asked to download."""
    asked: list[str] = []
    download = LocalStore.download

    def noted(self: LocalStore, key: str, path: Path) -> None:
        asked.append(key)
        download(self, key, path)

    monkeypatch.setattr(LocalStore, "download", noted)
    return asked


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes the container has, all of them free."""
    monkeypatch.setattr(memory, "held", lambda: 0)
    return lambda limit: monkeypatch.setattr(memory, "memory_limit", lambda: limit)


def weights(directory: Path, size: int, dtype: str = "F32") -> Path:
    """A directory with a file of weights of that size in it and nothing else: no stage can load them."""
    directory.mkdir()
    width, room = {"F32": 4, "BF16": 2}[dtype], size - HEADER
    entry = {"dtype": dtype, "shape": [room // width], "data_offsets": [0, room]}
    header = json.dumps({"w": entry}).encode().ljust(HEADER - 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(size)
    return directory


def spec_of(world: Any, stage: str, **sections: Any) -> StageSpec:
    given = {"policy": ("policy", POLICY), "candidate": ("policy", POLICY), "q": ("q", Q)}
    inputs: dict[str, ArtifactRef] = {}
    for name, (kind, size) in given.items():
        directory = weights(world.folder / name, size)
        inputs[name] = publish(world.store, f"given/{name}", directory, kind, metadata={"name": name})
    spec: StageSpec = world.spec(stage, inputs | {"data": world.put_data(world.demonstrations(4))}, **sections)
    return spec


STAGES = {
    "collect": (POLICY, {"collect": params.Collect(conversations=4, parallelism=1)}),
    "fit-q": (9 * POLICY // 2, {"fit_q": params.FitQ()}),
    "improve": (7 * POLICY + 3 * Q, {"improve": params.Improve(algorithm="PPO")}),
    "evaluate": (POLICY, {"evaluate": params.Evaluate(conversations=4)}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_before_the_download(
    small_world: Any, downloads: list[str], room: Callable[[int], None], stage: str
) -> None:
    least, sections = STAGES[stage]
    spec = spec_of(small_world, stage, **sections)
    room(least - 1)
    code, message = small_world.run(spec)
    assert (code, message["error"]["reason"]) == (65, "InvalidData")
    field = {"fit-q": "fitQ"}.get(stage, stage)
    assert f"{stage} needs at least {-(-least // MEBIBYTE)} MiB" in message["error"]["message"]
    assert f"Raise spec.pods.{field}.resources.limits.memory" in message["error"]["message"]
    assert downloads == []
    room(least)
    code, message = small_world.run(spec)
    assert "cannot be loaded" in message["error"]["message"], "there is room for these weights, but no config"
    assert downloads != []


def test_manifests_are_all_that_is_read_and_that_once(
    small_world: Any, downloads: list[str], room: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(small_world, "improve", **STAGES["improve"][1])
    ctx = StageContext(spec, small_world.store, small_world.folder / "work")
    reads: list[str] = []
    read = LocalStore.read

    def noted(self: LocalStore, key: str, limit: int) -> bytes:
        reads.append(key)
        return read(self, key, limit)

    monkeypatch.setattr(LocalStore, "read", noted)
    room(STAGES["improve"][0] - 1)
    with pytest.raises(BadDataError, match=r"no room for policy .* and q "):
        ctx.input("policy", "policy")
    assert reads == [f"{spec.inputs[name].key}/manifest.json" for name in ("policy", "q")]
    assert downloads == []
    room(STAGES["improve"][0])
    assert ctx.input("policy", "policy").is_dir()
    room(0)
    assert ctx.input("q", "q").is_dir(), "what fitted is not measured again: by now some of it is loaded"


def test_data_need_no_room(small_world: Any, room: Callable[[int], None]) -> None:
    room(0)
    ctx = StageContext(spec_of(small_world, "improve"), small_world.store, small_world.folder / "work")
    assert ctx.input("data", "data").is_dir()


def base_spec(world: Any, base: str) -> StageSpec:
    start = params.WarmStart(demonstrations=2)
    policy = params.Policy(base=base, max_prompt_tokens=256)
    spec: StageSpec = world.spec("warm-start", {}, warm_start=start, policy=policy, iteration=0)
    return spec


@pytest.fixture
def bucket(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Puts a model, 3 MiB of weights of some dtype, where s3://models/big is looked for; returns that address."""

    def put(dtype: str) -> str:
        store = LocalStore(small_world.folder / "bucket")
        store.put("model.safetensors", weights(small_world.folder / "big", POLICY, dtype) / "model.safetensors")
        store.put("consolidated.safetensors", bytes(POLICY))
        store.put("config.json", b"{}")
        monkeypatch.setattr(uri, "open_store", lambda location: store)
        return "s3://models/big"

    return put


def test_a_base_in_s3_ends_before_the_download(
    small_world: Any, bucket: Callable[[str], str], downloads: list[str], room: Callable[[int], None]
) -> None:
    spec = base_spec(small_world, bucket("F32"))
    room(4 * POLICY - 1)
    code, message = small_world.run(spec)
    told = message["error"]["message"]
    assert code == 65
    assert "no room for policy.base s3://models/big (3 MiB): warm-start needs at least 12 MiB" in told
    assert "Raise spec.pods.warmStart.resources.limits.memory" in told
    assert downloads == []


def test_a_base_in_s3_that_fits_is_downloaded(
    small_world: Any, bucket: Callable[[str], str], downloads: list[str], room: Callable[[int], None]
) -> None:
    room(4 * POLICY)
    ctx = StageContext(base_spec(small_world, bucket("F32")), small_world.store, small_world.folder / "work")
    assert memory.loaded_bytes(ctx.base()) == POLICY - HEADER
    assert "model.safetensors" in downloads


@pytest.mark.parametrize("place", ["s3", "file"])
def test_half_precision_that_does_not_fit_is_never_loaded(
    small_world: Any, bucket: Callable[[str], str], room: Callable[[int], None], place: str
) -> None:
    base = bucket("BF16") if place == "s3" else f"file://{weights(small_world.folder / 'own', POLICY, 'BF16')}"
    least = 8 * (POLICY - HEADER)
    room(least - 1)
    code, message = small_world.run(base_spec(small_world, base))
    assert code == 65
    assert f"policy.base {base} (6 MiB): warm-start needs at least 24 MiB" in message["error"]["message"]
    room(least)
    code, message = small_world.run(base_spec(small_world, base))
    assert "cannot be loaded" in message["error"]["message"], "by transformers: there is no config"
