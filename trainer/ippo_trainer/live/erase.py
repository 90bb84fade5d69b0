"""Takes a conversation out of what was logged, and says what has learnt from it.

A tombstone comes first, so that nothing of it counts from then on, copies that are late neither. Then each segment that
holds something of it is written anew without that, under a name that follows from the old one, and the old one is
deleted. A crash between leaves events twice, which readers count once, and the next erasure goes on.
"""

import gzip
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import LIVE, SERVED
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.live.events import ERASED, VERSION, erased_id
from ippo_trainer.live.reading import began_at, segments
from ippo_trainer.live.redaction import pseudonym
from ippo_trainer.store.artifact import MANIFEST, Manifest, read_manifest
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError, Store
from ippo_trainer.store.segments import compressed, segment_key, segment_name

_DATA = "data"
_ITERATIONS = "iterations"


@dataclass(frozen=True)
class StoredArtifact:
    """Something that a run made of a conversation."""

    key: str
    kind: str
    digest: str


@dataclass
class Erasure:
    """What was taken out, and what is left. Keys are relative to the run's folder."""

    segments: list[str] = field(default_factory=list)
    """Those that held events of the conversation."""
    events: int = 0
    artifacts: list[StoredArtifact] = field(default_factory=list)
    """Data that hold the conversation, and all that was made of them, by key: they stay."""


def erase(store: Store, name: str, now: float, dry_run: bool = False) -> Erasure:
    """Erases a conversation.

    Args:
        store: of the run.
        name: of the conversation, as the application calls it, whether redaction gave it a pseudonym or not.
        now: seconds since 1970 UTC.
        dry_run: changes nothing.

    Raises:
        BadDataError: a segment or artifact that is damaged; segments before it are done.
        StageError: a store that does not answer.
    """
    names = {name, pseudonym(name)}
    erasure = Erasure()
    if not dry_run:
        for each in sorted(names):
            _put_tombstone(store, each, now)
    for folder in (LIVE, SERVED):
        for key in sorted(segments(store, folder)):
            _rewrite(store, folder, key, names, erasure, dry_run)
    erasure.artifacts = _learnt(store, names)
    return erasure


def _put_tombstone(store: Store, name: str, now: float) -> None:
    """A segment of its own; equal erasures have equal ids."""
    event = {
        "version": VERSION,
        "kind": ERASED,
        "event_id": erased_id(name),
        "time": now,
        "conversation_id": name,
    }
    began = datetime.fromtimestamp(now, UTC)
    key = segment_key(segment_name(_writer("erased", name, str(now)), 1, began))
    _put(store, f"{LIVE}/{key}", compressed(canonical_json(event) + b"\n"))


def _rewrite(store: Store, folder: str, key: str, names: set[str], erasure: Erasure, dry_run: bool) -> None:
    """Puts a segment without the conversation in its place, in the folder of the same day."""
    try:
        lines = list(_lines(store, key))
    except ObjectNotFoundError:
        return
    kept = [line for line in lines if not _of(line, names, f"{store.describe(key)}")]
    if len(kept) == len(lines):
        return
    erasure.segments.append(key)
    erasure.events += len(lines) - len(kept)
    if dry_run:
        return
    if kept:
        began = datetime.fromtimestamp(began_at(key), UTC)
        new = segment_key(segment_name(_writer(key, *sorted(names)), 1, began))
        _put(store, f"{folder}/{new}", compressed(b"".join(kept)))
    store.delete(key)


def _lines(store: Store, key: str) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(store.read(key))) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise BadDataError(f"{store.describe(key)} is damaged", "Delete it, or put it back from a copy.") from error


def _of(line: bytes, names: set[str], place: str) -> bool:
    """Whether an event is the conversation's; a tombstone says nothing of it and stays."""
    try:
        event = json.loads(line)
        return event["conversation_id"] in names and event.get("kind") != ERASED
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{place} holds no events", "Delete it, or put it back from a copy.") from error


def _put(store: Store, key: str, body: bytes) -> None:
    with suppress(ObjectExistsError):  # of an erasure that did not get to its end
        store.put(key, body, if_absent=True)


def _writer(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _learnt(store: Store, names: set[str]) -> list[StoredArtifact]:
    """Data that hold the conversation, and what was made of them, of each other, and so on."""
    manifests = dict(_manifests(store))
    data = (ref for ref, manifest in manifests.items() if manifest.kind == _DATA)
    digests = {ref.digest for ref in data if _holds(store, ref, names)}
    while more := {r.digest for r, m in manifests.items() if digests & set(m.inputs.values())} - digests:
        digests |= more
    artifacts = (StoredArtifact(ref.key, manifest.kind, ref.digest) for ref, manifest in manifests.items())
    return sorted((each for each in artifacts if each.digest in digests), key=lambda artifact: artifact.key)


def _manifests(store: Store) -> Iterator[tuple["_Ref", Manifest]]:
    for info in store.list(_ITERATIONS):
        folder, _, file = info.key.rpartition("/")
        if file == MANIFEST:
            digest = f"sha256:{hashlib.sha256(store.read(info.key, info.size)).hexdigest()}"
            yield _Ref(folder, digest), read_manifest(store, ArtifactRef(key=folder, digest=digest))


@dataclass(frozen=True)
class _Ref:
    key: str
    digest: str


def _holds(store: Store, ref: "_Ref", names: set[str]) -> bool:
    """Whether turns of the conversation are in an artifact."""
    for info in store.list(ref.key):
        if info.key.endswith(".parquet"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "turns.parquet"
                store.download(info.key, path)
                try:
                    column = pq.read_table(path, columns=["conversation_id"]).column(0)
                except (OSError, pa.ArrowException) as error:
                    raise BadDataError(
                        f"{store.describe(info.key)} is damaged", "Delete the artifact, or put it back from a copy."
                    ) from error
                if not names.isdisjoint(column.unique().to_pylist()):
                    return True
    return False
