"""An artifact is found whole and unaltered, or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.digests import canonical_json, digest_of
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.store.artifact import FileEntry, Manifest, fetch, publish, read_manifest
from ippo_trainer.store.base import Store
from ippo_trainer.store.local import LocalStore
from ippo_trainer.store.parallel import for_each

FILES = {"a.txt": b"alpha", "empty": b"", "sub/folder/b.bin": bytes(range(256)) * 40}
INPUT = "sha256:" + "1" * 64
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,8}", fullmatch=True)


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", FILES)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_published_is_fetched(store: Store, source: Path, tmp_path: Path) -> None:
    ref = publish(store, "iterations/0001/q", source, "q", {"policy": INPUT}, {"loss": 0.25, "notes": ["x", None]})
    manifest = fetch(store, ref, tmp_path / "out", "q")
    assert contents(tmp_path / "out") == FILES
    assert manifest == read_manifest(store, ref)
    assert manifest.inputs == {"policy": INPUT}
    assert manifest.metadata == {"loss": 0.25, "notes": ["x", None]}
    assert [(e.path, e.size, e.sha256) for e in manifest.files] == [
        (path, len(body), hashlib.sha256(body).hexdigest()) for path, body in sorted(FILES.items())
    ]


def test_the_digest_is_that_of_the_manifest_file(local: LocalStore, source: Path) -> None:
    ref = publish(local, "q", source, "q")
    body = local.read(f"{ref.key}/manifest.json")
    assert ref.digest == "sha256:" + hashlib.sha256(body).hexdigest() == digest_of(json.loads(body))
    assert ref.key == f"q/{ref.digest[7:23]}"


def test_the_digest_depends_on_content_only(tmp_path: Path) -> None:
    """Not on the store, the folder, times, or the order in which files were made."""
    one = publish(LocalStore(tmp_path / "1"), "a", write(tmp_path / "x", FILES), "q")
    backwards = write(tmp_path / "y", dict(reversed(FILES.items())))
    os.utime(backwards / "a.txt", (0, 0))
    two = publish(LocalStore(tmp_path / "2"), "b", backwards, "q")
    assert one.digest == two.digest
    others = [
        publish(LocalStore(tmp_path / "3"), "a", backwards, "policy"),
        publish(LocalStore(tmp_path / "3"), "a", backwards, "q", {"data": INPUT}),
        publish(LocalStore(tmp_path / "3"), "a", backwards, "q", metadata={"n": 1}),
    ]
    (backwards / "a.txt").rename(backwards / "c.txt")
    others.append(publish(LocalStore(tmp_path / "3"), "a", backwards, "q"))
    assert len({one.digest, *(ref.digest for ref in others)}) == 5


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.tuples(NAME, NAME), st.binary(max_size=50), min_size=1, max_size=6))
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bytes]) -> None:
    home = tmp_path_factory.mktemp("tree")
    tree = {f"d/{a}-/{b}": body for (a, b), body in files.items()}
    ref = publish(LocalStore(home / "store"), "k", write(home / "source", tree), "any")
    fetch(LocalStore(home / "store"), ref, home / "out", "any")
    assert contents(home / "out") == tree


def _truncate(store: Store, key: str) -> None:
    store.put(key, store.read(key)[:-1])


def _alter(store: Store, key: str) -> None:
    body = bytearray(store.read(key))
    body[len(body) // 2] ^= 1
    store.put(key, bytes(body))


def _delete(store: Store, key: str) -> None:
    store.delete(key)


@pytest.mark.parametrize(
    ("damage", "says"), [(_truncate, "has 10239 of 10240 bytes"), (_alter, "was altered"), (_delete, "is missing")]
)
def test_damaged_files_are_named_and_never_used(
    store: Store, source: Path, tmp_path: Path, damage: Callable[[Store, str], None], says: str
) -> None:
    ref = publish(store, "q", source, "q")
    damage(store, f"{ref.key}/sub/folder/b.bin")
    with pytest.raises(BadDataError, match=f"sub/folder/b.bin {says}") as caught:
        fetch(store, ref, tmp_path / "out", "q")
    assert store.describe(ref.key) in str(caught.value)
    assert "run the stage" in caught.value.remedy
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("**/*.partial"))

    publish(store, "q", source, "q")
    fetch(store, ref, tmp_path / "out", "q")
    assert contents(tmp_path / "out") == FILES, "publishing again repairs it"


@pytest.mark.parametrize(
    ("damage", "says"), [(_truncate, "altered or truncated"), (_alter, "altered or truncated"), (_delete, "is missing")]
)
def test_a_damaged_manifest_is_named(
    store: Store, source: Path, tmp_path: Path, damage: Callable[[Store, str], None], says: str
) -> None:
    ref = publish(store, "q", source, "q")
    damage(store, f"{ref.key}/manifest.json")
    with pytest.raises(BadDataError, match=f"manifest.json.* {says}|manifest.json was {says}"):
        fetch(store, ref, tmp_path / "out", "q")
    assert not (tmp_path / "out").exists()


def test_many_damaged_files_are_counted(local: LocalStore, tmp_path: Path) -> None:
    ref = publish(local, "q", write(tmp_path / "source", {f"f{n}": b"x" for n in range(9)}), "q")
    for n in range(7):
        local.delete(f"{ref.key}/f{n}")
    with pytest.raises(BadDataError, match=r"f0 is missing, f1 .* and 2 more"):
        fetch(local, ref, tmp_path / "out", "q")


def test_extra_files_are_not_used(store: Store, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ref = publish(store, "q", source, "q")
    store.put(f"{ref.key}/sub/evil.py", b"import os")
    fetch(store, ref, tmp_path / "out", "q")
    assert contents(tmp_path / "out") == FILES
    assert "sub/evil.py" in caplog.text


def test_another_kind_is_refused(local: LocalStore, source: Path, tmp_path: Path) -> None:
    ref = publish(local, "q", source, "q")
    with pytest.raises(BadDataError, match="is a q, not a policy"):
        fetch(local, ref, tmp_path / "out", "policy")


def test_a_reference_to_the_wrong_place_is_refused(local: LocalStore, source: Path, tmp_path: Path) -> None:
    ref = publish(local, "q", source, "q")
    (source / "a.txt").write_bytes(b"other")
    other = publish(local, "q", source, "q")
    assert other.key != ref.key
    with pytest.raises(BadDataError, match="altered or truncated"):
        fetch(local, ArtifactRef(key=other.key, digest=ref.digest), tmp_path / "out", "q")
    with pytest.raises(BadSpecError, match="not allowed"):
        fetch(local, ArtifactRef(key="../elsewhere", digest=ref.digest), tmp_path / "out", "q")


ENTRY = {"path": "a", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}


@pytest.mark.parametrize(
    "files",
    [
        [ENTRY | {"path": "../x"}],
        [ENTRY | {"path": "/etc/x"}],
        [ENTRY | {"path": "a/../../x"}],
        [ENTRY | {"path": ".hidden"}],
        [ENTRY | {"path": "a\\..\\x"}],
        [ENTRY | {"path": ""}],
        [ENTRY | {"path": "manifest.json"}],
        [ENTRY | {"path": "manifest.json/a"}],
        [ENTRY, ENTRY],
        [ENTRY, ENTRY | {"path": "a/b"}],
        [ENTRY | {"path": "b"}, ENTRY],
        [ENTRY | {"size": -1}],
        [ENTRY | {"sha256": "x"}],
        [ENTRY | {"link": "/etc/passwd"}],
        "no list",
    ],
)
def test_a_hostile_manifest_is_refused(local: LocalStore, tmp_path: Path, files: object) -> None:
    """Even one whose digest is right."""
    value = {"schemaVersion": 1, "kind": "q", "files": files, "inputs": {}, "metadata": {}}
    ref = ArtifactRef(key="q/evil", digest=digest_of(value))
    local.put("q/evil/manifest.json", canonical_json(value))
    local.put("q/x", b"x")
    with pytest.raises(BadDataError, match=r"is no valid manifest: (files|manifest)"):
        fetch(local, ref, tmp_path / "deep" / "out", "q")
    assert not (tmp_path / "deep").exists()


def test_a_link_in_the_store_is_not_followed(local: LocalStore, source: Path, tmp_path: Path) -> None:
    ref = publish(local, "q", source, "q")
    (tmp_path / "outside").write_bytes(FILES["a.txt"])
    (local.root / ref.key / "a.txt").unlink()
    (local.root / ref.key / "a.txt").symlink_to(tmp_path / "outside")
    with pytest.raises(StageError, match=r"a\.txt"):
        fetch(local, ref, tmp_path / "out", "q")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_published_is_named(local: LocalStore, source: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(BadDataError, match="no files"):
        publish(local, "q", tmp_path / "none", "q")
    with pytest.raises(BadSpecError, match="cannot use"):
        publish(local, "q", tmp_path / "nowhere", "q")
    (source / "link").symlink_to("a.txt")
    with pytest.raises(BadDataError, match="link is a link"):
        publish(local, "q", source, "q")
    (source / "link").unlink()
    (source / "odd name").write_bytes(b"")
    with pytest.raises(BadDataError, match="odd name"):
        publish(local, "q", source, "q")
    assert list(local.list("")) == []


def test_fetch_does_not_overwrite(local: LocalStore, source: Path, tmp_path: Path) -> None:
    ref = publish(local, "q", source, "q")
    write(tmp_path / "out", {"precious": b""})
    with pytest.raises(StageError, match="out"):
        fetch(local, ref, tmp_path / "out", "q")
    assert contents(tmp_path / "out") == {"precious": b""}


def test_too_little_room_is_said_before_downloading(
    local: LocalStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = publish(local, "q", source, "q")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(TryAgainError, match="MiB free"):
        fetch(local, ref, tmp_path / "out", "q")


def test_writers_of_equal_bytes_do_no_harm(store: Store, source: Path, tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def write_it(_: int) -> ArtifactRef:
        barrier.wait(30)
        return publish(store, "q", source, "q")

    refs = for_each(write_it, range(3), workers=3)
    assert len({ref.digest for ref in refs}) == 1
    fetch(store, refs[0], tmp_path / "out", "q")
    assert contents(tmp_path / "out") == FILES


def test_writers_of_different_bytes_never_mix(store: Store, tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def write_it(n: int) -> ArtifactRef:
        files = {f"f{i}": bytes([n]) * 5000 for i in range(10)}
        directory = write(tmp_path / f"source{n}", files)
        barrier.wait(30)
        return publish(store, "q", directory, "q")

    refs = for_each(write_it, range(3), workers=3)
    for n, ref in enumerate(refs):
        fetch(store, ref, tmp_path / f"out{n}", "q")
        assert set(contents(tmp_path / f"out{n}").values()) == {bytes([n]) * 5000}


def test_a_kill_before_the_manifest_publishes_nothing(source: Path, tmp_path: Path) -> None:
    """A real process, killed with SIGKILL when all its files are there and its manifest is not."""
    script = """
import sys, time
from pathlib import Path
from ippo_trainer.store.artifact import publish
from ippo_trainer.store.local import LocalStore
class Slow(LocalStore):
    def put(self, key, source, *, if_absent=False):
        if if_absent:
            print("ready", flush=True)
            sys.stdin.read()
        super().put(key, source, if_absent=if_absent)
publish(Slow(Path(sys.argv[1])), "q", Path(sys.argv[2]), "q")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "store"), str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    local = LocalStore(tmp_path / "store")
    assert len(list(local.list("q"))) == len(FILES)
    files = [FileEntry(path=p, size=len(b), sha256=hashlib.sha256(b).hexdigest()) for p, b in sorted(FILES.items())]
    digest = Manifest(kind="q", files=files).digest()
    ref = ArtifactRef(key=f"q/{digest[7:23]}", digest=digest)
    with pytest.raises(BadDataError, match="never published as a whole"):
        fetch(local, ref, tmp_path / "out", "q")
    assert publish(local, "q", source, "q") == ref
    fetch(local, ref, tmp_path / "out", "q")
    assert contents(tmp_path / "out") == FILES
