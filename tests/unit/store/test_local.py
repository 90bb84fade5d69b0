"""What only a local directory can get wrong: links, special files, full disks, killed writers."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.store import open_store
from ippo_trainer.store.base import ObjectNotFoundError
from ippo_trainer.store.local import PARTS, LocalStore
from ippo_trainer.store.s3 import S3Store


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_open_store_takes_the_kind_from_the_location(tmp_path: Path, credentials: None) -> None:
    assert isinstance(open_store(StoreLocation(directory=str(tmp_path))), LocalStore)
    s3 = open_store(StoreLocation(s3=S3Location(bucket="bucket", prefix="/p/", endpoint_url="http://127.0.0.1:1")))
    assert isinstance(s3, S3Store)
    assert s3.describe("a/b") == "s3://bucket/p/a/b"


def test_links_do_not_lead_out_of_the_store(local: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    local.put("inside", b"")
    (local.root / "file").symlink_to(outside / "secret")
    (local.root / "folder").symlink_to(outside)
    calls = [
        lambda: local.read("file"),
        lambda: local.read("folder/secret"),
        lambda: local.download("folder/secret", tmp_path / "out"),
        lambda: local.put("folder/new", b""),
        lambda: local.delete("folder/secret"),
    ]
    for call in calls:
        with pytest.raises(BadSpecError, match="leads out of"):
            call()
    assert [found.key for found in local.list("")] == ["inside"]
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_a_link_inside_the_store_is_no_object_either(local: LocalStore) -> None:
    local.put("a", b"a")
    (local.root / "b").symlink_to("a")
    with pytest.raises(BadSpecError, match="cannot use"):
        local.read("b")


def test_a_pipe_is_no_object(local: LocalStore) -> None:
    local.put("a", b"")
    os.mkfifo(local.root / "pipe")
    with pytest.raises(ObjectNotFoundError, match="regular file"):
        local.read("pipe")


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = LocalStore(tmp_path / "link")
    store.put("a/b", b"x")
    assert store.read("a/b") == b"x"
    assert (tmp_path / "real" / "a" / "b").exists()


def test_a_full_disk_leaves_nothing_behind(local: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local.put("k", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for conditional in (False, True):
        with pytest.raises(TryAgainError, match=r"disk that holds .* is full"):
            local.put("k", b"new", if_absent=conditional)
    assert local.read("k") == b"old"
    assert list((local.root / PARTS).iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_download_to_a_full_disk(local: LocalStore) -> None:
    local.put("k", b"x" * 100_000)
    with pytest.raises(TryAgainError, match="/dev/full is full"):
        local.download("k", Path("/dev/full"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A real file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, tmp_path: Path) -> None:
    store, source = LocalStore(small_disk / "store"), tmp_path / "source"
    source.write_bytes(bytes(2 << 20))
    store.put("fits", b"x" * 1000)
    with pytest.raises(TryAgainError, match="is full"):
        store.put("too-large", source)
    assert [found.key for found in store.list("")] == ["fits"]
    store.put("fits-still", b"y" * 100_000)


def test_what_may_not_be_written_is_a_wrong_spec(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadSpecError, match="cannot use"):
        LocalStore(tmp_path / "file").put("k", b"")
    with pytest.raises(StageError, match="/proc"):
        LocalStore(Path("/proc/no-such-place")).put("k", b"")


def test_a_key_cannot_be_a_folder_and_an_object(local: LocalStore) -> None:
    local.put("a/b", b"")
    with pytest.raises(BadSpecError):
        local.put("a", b"")
    with pytest.raises(BadSpecError):
        local.put("a/b/c", b"")
    with pytest.raises(ObjectNotFoundError):
        local.read("a")


def test_parts_of_killed_writers_go_after_an_hour(local: LocalStore) -> None:
    parts = local.root / PARTS
    parts.mkdir(parents=True)
    (parts / "old").write_bytes(b"half")
    (parts / "young").write_bytes(b"half")
    os.utime(parts / "old", (time.time() - 4000,) * 2)
    local.put("k", b"")
    assert [path.name for path in parts.iterdir()] == ["young"]
    assert [found.key for found in local.list("")] == ["k"]


def test_empty_folders_go_with_their_last_object(local: LocalStore) -> None:
    local.put("a/b/c", b"")
    local.put("a/d", b"")
    local.delete("a/b/c")
    assert not (local.root / "a" / "b").exists()
    local.delete("a/d")
    assert local.root.exists()
    assert not (local.root / "a").exists()


def test_a_file_system_without_hard_links_is_named(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(BadSpecError, match="no hard links"):
        local.put("k", b"", if_absent=True)
    assert local.info("k") is None
