"""The command that fetches a policy before a server starts."""

import json
from pathlib import Path

import pytest
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.models import memory
from ippo_trainer.store.artifact import publish
from ippo_trainer.store.fetch import main
from ippo_trainer.store.local import LocalStore


@pytest.fixture
def published(tmp_path: Path) -> ArtifactRef:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    return publish(LocalStore(tmp_path / "store"), "iterations/0001/policy", source, "policy")


def arguments(tmp_path: Path, ref: ArtifactRef, kind: str = "policy") -> list[str]:
    store = json.dumps({"directory": str(tmp_path / "store")})
    to = str(tmp_path / "out" / "model")
    return ["--store", store, "--key", ref.key, "--digest", ref.digest, "--kind", kind, "--to", to]


def test_a_policy_is_there_and_verified(tmp_path: Path, published: ArtifactRef) -> None:
    assert main(arguments(tmp_path, published)) == 0
    assert (tmp_path / "out" / "model" / "model.safetensors").read_bytes() == b"weights"


def test_what_an_interrupted_fetch_left_is_replaced(tmp_path: Path, published: ArtifactRef) -> None:
    for left in ("model", ".model.partial"):
        (tmp_path / "out" / left).mkdir(parents=True)
        (tmp_path / "out" / left / "stale").write_bytes(b"")
    assert main(arguments(tmp_path, published)) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "out" / "model").iterdir()] == ["model.safetensors"]


def test_altered_weights_never_arrive(
    tmp_path: Path, published: ArtifactRef, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store" / published.key / "model.safetensors").write_bytes(b"wEights")
    assert main(arguments(tmp_path, published)) == 65
    assert "model.safetensors was altered" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()


def test_wrong_arguments_are_named(tmp_path: Path, published: ArtifactRef, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path, published, kind="q")) == 65
    assert "is a policy, not a q" in capsys.readouterr().err
    wrong = arguments(tmp_path, published)
    wrong[wrong.index("--digest") + 1] = "md5:0"
    assert main(wrong) == 64
    assert "digest" in capsys.readouterr().err


def test_a_model_that_is_larger_than_the_memory_is_not_even_downloaded(
    tmp_path: Path, published: ArtifactRef, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*arguments(tmp_path, published), "--fits-memory"]
    monkeypatch.setattr(memory, "memory_limit", lambda: memory.RUNTIME_BYTES)
    assert main(command) == 65
    assert "needs 451 MiB of memory, this container has 450 MiB" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(memory, "memory_limit", lambda: memory.RUNTIME_BYTES + 7)
    assert main(command) == 0
