"""Every kind of store keeps the same promises."""

import hashlib
import threading
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.store import s3
from ippo_trainer.store.base import ObjectExistsError, ObjectInfo, ObjectNotFoundError, Store
from ippo_trainer.store.parallel import for_each
from ippo_trainer.store.s3 import S3Store

from .conftest import s3_store

HOSTILE = [
    "",
    "/a",
    "a/",
    "../a",
    "a/../b",
    "a//b",
    ".hidden",
    "a/.b",
    "a\\b",
    "a\0b",
    "a b",
    "ä",
    "a/./b",
    "~",
    "x" * 901,
]


def test_put_then_read_info_list_delete(store: Store) -> None:
    store.put("a/b.json", b"{}")
    store.put("a/c/d.bin", b"12345")
    store.put("ab/e", b"")

    assert store.read("a/b.json") == b"{}"
    assert store.read("ab/e") == b""
    assert store.info("a/c/d.bin") == ObjectInfo("a/c/d.bin", 5)
    assert sorted(o.key for o in store.list("a")) == ["a/b.json", "a/c/d.bin"]
    assert sorted(o.key for o in store.list("")) == ["a/b.json", "a/c/d.bin", "ab/e"]

    store.delete("a/b.json")
    store.delete("a/b.json")
    assert store.info("a/b.json") is None
    assert [o.key for o in store.list("a")] == ["a/c/d.bin"]
    assert list(store.list("nothing")) == []


def test_a_file_goes_in_and_out_unchanged(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)

    store.put("f/one", source)
    store.put("f/two", source, if_absent=True)

    for key in ("f/one", "f/two"):
        store.download(key, tmp_path / "new" / key)
        assert (tmp_path / "new" / key).read_bytes() == source.read_bytes()


def test_put_replaces(store: Store) -> None:
    store.put("k", b"first, and longer")
    store.put("k", b"second")
    assert store.read("k") == b"second"


@pytest.mark.parametrize("as_file", [False, True])
def test_conditional_put_never_replaces(store: Store, tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "second").write_bytes(b"second")
    store.put("k", b"first", if_absent=True)
    with pytest.raises(ObjectExistsError, match="k exists already"):
        store.put("k", tmp_path / "second" if as_file else b"second", if_absent=True)
    assert store.read("k") == b"first"


def test_missing_object_is_named(store: Store, tmp_path: Path) -> None:
    store.put("a/b", b"")
    for key in ("a/none", "a/b/none"):
        with pytest.raises(ObjectNotFoundError, match=key):
            store.read(key)
        with pytest.raises(ObjectNotFoundError, match=key):
            store.download(key, tmp_path / "x")
        assert store.info(key) is None
        store.delete(key)


def test_read_has_a_limit(store: Store) -> None:
    store.put("k", b"12345")
    assert store.read("k", limit=5) == b"12345"
    with pytest.raises(BadDataError, match="more than 4 bytes"):
        store.read("k", limit=4)


@pytest.mark.parametrize("key", HOSTILE)
def test_keys_cannot_leave_the_store(store: Store, tmp_path: Path, key: str) -> None:
    calls = [
        lambda: store.put(key, b""),
        lambda: store.read(key),
        lambda: store.download(key, tmp_path / "out"),
        lambda: store.info(key),
        lambda: store.delete(key),
        *([lambda: list(store.list(key))] if key else []),
    ]
    for call in calls:
        with pytest.raises(BadSpecError, match="is not allowed"):
            call()
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,20}", fullmatch=True))
def test_any_bytes_under_any_allowed_name(store: Store, content: bytes, name: str) -> None:
    store.put(f"h/{name}", content)
    assert store.read(f"h/{name}") == content
    store.delete(f"h/{name}")
    assert list(store.list("h")) == []


def test_of_many_conditional_puts_one_wins(store: Store) -> None:
    writers = 8
    for round_ in range(5):
        barrier, wins = threading.Barrier(writers), []

        def write(number: int, key: str = f"race/{round_}", barrier=barrier, wins=wins) -> None:
            barrier.wait(30)
            try:
                store.put(key, f"writer {number}".encode() * 1000, if_absent=True)
            except ObjectExistsError:
                return
            wins.append(number)

        for_each(write, range(writers), workers=writers)
        assert len(wins) == 1
        assert store.read(f"race/{round_}") == f"writer {wins[0]}".encode() * 1000


def test_readers_see_the_old_or_the_new_object_never_a_mix(store: Store) -> None:
    versions = [bytes([n]) * 200_000 for n in range(1, 4)]
    store.put("k", versions[0])
    over = threading.Event()

    def write(_: int) -> None:
        for n in range(30):
            store.put("k", versions[n % 3])
        over.set()

    def read(_: int) -> None:
        while not over.is_set():
            assert store.read("k") in versions

    for_each(lambda work: work(0), [write, read, read], workers=3)


def test_listing_goes_on_after_the_first_page(store: Store) -> None:
    if isinstance(store, S3Store):  # its pages have 1,000 objects; smaller ones make the same point
        events = store._client.meta.events
        events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 10})
    for_each(lambda n: store.put(f"many/{n % 7}/{n}", b"x"), range(45))
    keys = [found.key for found in store.list("many")]
    assert len(keys) == len(set(keys)) == 45


@pytest.mark.parametrize("kind", ["moto", "real_s3"])
def test_a_large_file_goes_in_parts(
    kind: str, tmp_path: Path, credentials: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(request.getfixturevalue(kind))
    parts = []
    store._client.meta.events.register("before-call.s3.UploadPart", lambda **_: parts.append(1))
    monkeypatch.setattr(s3, "_TRANSFER", TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"".join(hashlib.sha256(bytes([n])).digest() * 32768 for n in range(12)))
    store.put("large", source)
    store.download("large", target)
    assert len(parts) == 3
    assert source.read_bytes() == target.read_bytes()
