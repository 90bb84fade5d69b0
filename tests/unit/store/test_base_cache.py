"""Bases that are kept in a folder: downloaded once, by whoever comes first, and verified by everybody."""

import errno
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError, TryAgainError
from ippo_trainer.contract.layout import BASE
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.store import artifact, base_cache
from ippo_trainer.store.artifact import BASE_INPUT, BASE_KIND, fetch, publish
from ippo_trainer.store.local import LocalStore

KIND = "policy"


class CountingStore(LocalStore):
    """Counts downloads by key, and waits in the middle of one for as long as a test wants."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.downloads: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def download(self, key: str, path: Path) -> None:
        with self.lock:
            self.downloads[key] += 1
        if key.startswith(BASE):
            self.begun.set()
            assert self.may_end.wait(60)
        super().download(key, path)

    def of_base(self) -> int:
        return sum(count for key, count in self.downloads.items() if key.startswith(BASE))


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def policy(tmp_path: Path, store: CountingStore) -> ArtifactRef:
    """An adapter on a base of one file."""
    for name, content in (("base", b"weights"), ("adapter", b"adapter")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    base = publish(store, BASE, tmp_path / "base", BASE_KIND)
    return publish(store, "iterations/0001/policy", tmp_path / "adapter", KIND, inputs={BASE_INPUT: base.digest})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    monkeypatch.setenv("IPPO_BASE_CACHE", str(path))
    return path


def base_in(directory: Path) -> Path:
    [base] = (directory / BASE).iterdir()
    return base


def kept_in(cache: Path) -> Path:
    [kept] = (path for path in cache.iterdir() if not path.name.startswith("."))
    return kept


def test_pods_that_come_one_after_another_download_it_once(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    for name in ("a", "b", "c"):
        fetch(store, policy, tmp_path / name, KIND)
        assert (base_in(tmp_path / name) / "model.safetensors").read_bytes() == b"weights"
    assert store.of_base() == 1


def test_models_of_one_stage_share_the_link(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    for name in ("a", "b"):
        fetch(store, policy, tmp_path / "inputs" / name, KIND, tmp_path / "work")
    assert base_in(tmp_path / "work").is_symlink()
    assert store.of_base() == 1


def test_who_removes_a_policy_leaves_the_base(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    shutil.rmtree(tmp_path / "a")
    assert (kept_in(cache) / "model.safetensors").read_bytes() == b"weights"


def test_pods_that_come_together_wait_for_the_first(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    store.may_end.clear()
    pods = [threading.Thread(target=fetch, args=(store, policy, tmp_path / str(n), KIND)) for n in range(4)]
    for pod in pods:
        pod.start()
    assert store.begun.wait(60)
    store.may_end.set()
    for pod in pods:
        pod.join()
    assert store.of_base() == 1
    assert all((base_in(tmp_path / str(n)) / "model.safetensors").is_file() for n in range(4))


@pytest.mark.parametrize("harm", ["altered", "shorter", "removed", "emptied", "joined", "linked"])
def test_what_somebody_did_to_it_is_seen_and_mended(
    tmp_path: Path,
    store: CountingStore,
    policy: ArtifactRef,
    cache: Path,
    harm: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    file, other = kept_in(cache) / "model.safetensors", tmp_path / "other"
    other.write_bytes(b"weights")
    {
        "altered": lambda: file.write_bytes(b"wEights"),
        "shorter": lambda: file.write_bytes(b"weig"),
        "removed": file.unlink,
        "emptied": lambda: (file.unlink(), file.mkdir()),
        "joined": lambda: (file.parent / "adapter_config.json").write_text("{}"),
        "linked": lambda: (file.unlink(), file.symlink_to(other)),
    }[harm]()
    fetch(store, policy, tmp_path / "b", KIND)
    assert (base_in(tmp_path / "b") / "model.safetensors").read_bytes() == b"weights"
    assert "is damaged and is downloaded again" in caplog.text
    assert [path.name for path in kept_in(cache).iterdir()] == ["model.safetensors"]
    assert store.of_base() == 2


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder", "folder of others"])
def test_what_stands_in_its_place_gives_way(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, kind: str
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    place = kept_in(cache)
    elsewhere = place.rename(tmp_path / "elsewhere")
    if kind == "file":
        place.write_bytes(b"")
    elif kind == "folder of others":
        (place / "deep").mkdir(parents=True)
    else:
        place.symlink_to(elsewhere if kind == "link to a folder" else tmp_path / "nowhere")
    fetch(store, policy, tmp_path / "b", KIND)
    assert (base_in(tmp_path / "b") / "model.safetensors").read_bytes() == b"weights"
    assert not kept_in(cache).is_symlink()
    assert (elsewhere / "model.safetensors").is_file()


def test_a_damaged_base_is_there_until_another_takes_its_place(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have compared it before, and be about to load it."""
    fetch(store, policy, tmp_path / "a", KIND)
    file = kept_in(cache) / "model.safetensors"
    file.write_bytes(b"wEights")
    seen = []
    download = CountingStore.download
    monkeypatch.setattr(
        CountingStore,
        "download",
        lambda self, key, path: seen.append(file.is_file()) or download(self, key, path),
    )
    fetch(store, policy, tmp_path / "b", KIND)
    assert seen
    assert all(seen)


def test_a_file_that_vanishes_while_it_is_compared_is_damage(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    digest, vanished = artifact.file_sha256, []

    def vanishing(path: Path) -> str:
        if path.parent == kept_in(cache) and not vanished:
            vanished.append(path)
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return digest(path)

    monkeypatch.setattr(artifact, "file_sha256", vanishing)
    fetch(store, policy, tmp_path / "b", KIND)
    assert vanished


def test_a_volume_without_locks_is_named(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(base_cache.fcntl, "flock", no_lock)
    with pytest.raises(BadSpecError, match="has no locks"):
        fetch(store, policy, tmp_path / "a", KIND)


def test_a_link_that_leads_nowhere_is_made_anew(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    """Of a stage's other model, while another pod replaces the base."""
    fetch(store, policy, tmp_path / "inputs" / "a", KIND, tmp_path / "work")
    shutil.rmtree(kept_in(cache))
    fetch(store, policy, tmp_path / "inputs" / "b", KIND, tmp_path / "work")
    assert (base_in(tmp_path / "work") / "model.safetensors").read_bytes() == b"weights"


def test_what_a_killed_pod_left_is_removed(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    kept = kept_in(cache)
    shutil.rmtree(kept)
    (cache / f".{kept.name}.partial-killed").mkdir()
    fetch(store, policy, tmp_path / "b", KIND)
    assert sorted(path.name for path in cache.iterdir()) == sorted([kept.name, f".{kept.name}.lock"])


def test_a_base_that_is_damaged_in_the_store_is_not_kept(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path
) -> None:
    [file] = (tmp_path / "store" / BASE).glob("*/model.safetensors")
    file.write_bytes(b"wEights")
    with pytest.raises(BadDataError, match="altered"):
        fetch(store, policy, tmp_path / "a", KIND)
    assert not [path for path in cache.iterdir() if not path.name.endswith(".lock")]
    assert not (tmp_path / "a").exists()


def test_a_whole_base_is_read_where_nobody_may_write(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(store, policy, tmp_path / "a", KIND)
    monkeypatch.setattr(base_cache, "_alone", lambda path: pytest.fail("it was locked"))
    fetch(store, policy, tmp_path / "b", KIND)
    assert store.of_base() == 1


def test_the_wait_for_another_process_has_an_end(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_cache, "LONGEST_WAIT_SECONDS", -1.0)
    store.may_end.clear()
    first = threading.Thread(target=fetch, args=(store, policy, tmp_path / "a", KIND))
    first.start()
    assert store.begun.wait(60)
    with pytest.raises(TryAgainError, match="for an hour"):
        fetch(store, policy, tmp_path / "b", KIND)
    store.may_end.set()
    first.join()


@pytest.mark.parametrize("value", ["bases", "/nowhere/at/all", __file__])
def test_a_cache_that_is_no_folder_is_named(
    tmp_path: Path, store: CountingStore, policy: ArtifactRef, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IPPO_BASE_CACHE", value)
    with pytest.raises(BadSpecError, match="IPPO_BASE_CACHE") as caught:
        fetch(store, policy, tmp_path / "a", KIND)
    assert "readOnly: false" in str(caught.value)
