"""Artifacts: directories published as a whole, found by key and digest, verified when they are read.

An artifact's files are at `<folder>/<first 16 hex digits of its digest>/`, its `manifest.json` is put there last. The
digest is the SHA-256 of that file's bytes, so `sha256sum manifest.json` shows it. Two writers with different bytes
write to different places; two with equal bytes do no harm. Manifests hold neither times nor names of machines.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from ippo_trainer.contract.digests import canonical_json, file_sha256
from ippo_trainer.contract.errors import BadDataError, BadSpecError, TryAgainError
from ippo_trainer.contract.layout import BASE, artifact_key, check_key
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.spec import ArtifactRef, Digest
from ippo_trainer.contract.variables import BASE_CACHE
from ippo_trainer.store import base_cache
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError, Store
from ippo_trainer.store.disk import disk_errors
from ippo_trainer.store.parallel import for_each

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 32 << 20
BASE_KIND = "base"
BASE_INPUT = "base"
"""Among the inputs of an adapter's manifest."""
_MOST_NAMES = 5
_AGAIN = (
    "Put the files back from a copy; or delete the artifact's folder and the result.json beside it, "
    "and run the stage that makes it again."
)
_log = logging.getLogger(__name__)


class FileEntry(Model):
    """One file of an artifact: its path in it, its size in bytes, its SHA-256 in hex."""

    path: Annotated[str, Field(max_length=512)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _safe(cls, path: str) -> str:
        try:
            return check_key(path)
        except BadSpecError as error:
            raise ValueError(error.message) from error


class Manifest(Model):
    """What an artifact is: its files, the digests of the artifacts that it was made from, and facts about it."""

    schema_version: Literal[1] = 1
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    files: list[FileEntry]
    inputs: dict[str, Digest] = Field(default_factory=dict)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_tree(self) -> Self:
        """Paths are sorted and differ; none is the manifest's own, and none is a folder of another."""
        paths = [entry.path for entry in self.files]
        if any(a >= b for a, b in pairwise(paths)):
            raise ValueError("files are not sorted by path, or one is there twice")
        folders = {"/".join(parts[:n]) for parts in (path.split("/") for path in paths) for n in range(1, len(parts))}
        if folders.intersection(paths) or MANIFEST in paths or MANIFEST in folders:
            raise ValueError("two files cannot have the same place")
        return self

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: canonical JSON."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by path."""
        return {entry.path: entry.size for entry in self.files}

    def digest(self) -> str:
        """`sha256:<hex>` of those bytes: the artifact's digest."""
        return _digest(self.to_bytes())


def publish(
    store: Store,
    folder_key: str,
    directory: Path,
    kind: str,
    inputs: dict[str, str] | None = None,
    metadata: dict[str, JsonValue] | None = None,
    reuse: bool = False,
) -> ArtifactRef:
    """Publishes all files of `directory` as an artifact below `folder_key`.

    Args:
        store: where to.
        folder_key: the folder that gets the artifact's own folder.
        directory: its regular files become the artifact; symbolic links and odd names are refused (BadDataError).
        kind: what it is, e.g. `policy`; readers ask for it.
        inputs: digests of the artifacts that it was made from, by name.
        metadata: JSON facts, the same on every machine: no times, no paths.
        reuse: whether an artifact of that digest that is there already is taken as it is.

    Returns:
        The reference: key of the artifact's folder and digest.
    """
    check_key(folder_key)
    with disk_errors(directory):
        paths = sorted(_files(directory, ""))
        if not paths:
            raise BadDataError(
                f"{directory} has no files to publish as {kind}", "The stage must write its files there."
            )
        entries = for_each(lambda path: _entry(directory, path), paths)
    manifest = Manifest(kind=kind, files=entries, inputs=inputs or {}, metadata=metadata or {})
    body = manifest.to_bytes()
    if len(body) > MANIFEST_LIMIT:
        raise BadDataError(
            f"{directory} has {len(paths)} files, too many for one manifest", "Write fewer, larger files."
        )
    ref = ArtifactRef(key=artifact_key(folder_key, _digest(body)), digest=_digest(body))
    if reuse and store.info(f"{ref.key}/{MANIFEST}") is not None:
        _check_listing(store, ref, read_manifest(store, ref))
        return ref
    for_each(lambda path: store.put(f"{ref.key}/{path}", directory / path), paths)
    try:
        store.put(f"{ref.key}/{MANIFEST}", body, if_absent=True)
    except ObjectExistsError:
        # Somebody published the same bytes, or something else sits at a place that only these bytes may have.
        read_manifest(store, ref)
    return ref


def reference(store: Store, key: str) -> ArtifactRef:
    """The artifact that is at a key now. Raises BadDataError if there is none."""
    return ArtifactRef(key=key, digest=_digest(_manifest_bytes(store, key)))


def read_manifest(store: Store, ref: ArtifactRef) -> Manifest:
    """The verified manifest of an artifact. Raises BadDataError if it is missing, altered or malformed."""
    where, body = store.describe(f"{ref.key}/{MANIFEST}"), _manifest_bytes(store, ref.key)
    if _digest(body) != ref.digest:
        raise BadDataError(f"{where} was altered or truncated: its digest is not {ref.digest}", _AGAIN)
    try:
        return Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "manifest"
        raise BadDataError(f"{where} is no valid manifest: {field}: {first['msg']}", _AGAIN) from error


def base_of(manifest: Manifest) -> ArtifactRef | None:
    """The base whose adapter an artifact is; None for one that is whole."""
    digest = manifest.inputs.get(BASE_INPUT)
    return None if digest is None else ArtifactRef(key=artifact_key(BASE, digest), digest=digest)


def fetch(store: Store, ref: ArtifactRef, directory: Path, expect_kind: str, bases: Path | None = None) -> Manifest:
    """Downloads an artifact into `directory` (new or empty) and verifies the size and SHA-256 of each file.

    With an adapter comes its base, at its key below `bases`, if it is not there yet; by default below `directory`.
    Where there is a cache of bases, that is a link into the cache.

    Raises:
        BadDataError: files are missing, truncated or altered (the message names them), or it is of another kind.
        TryAgainError: the store does not answer, or the disk has too little room.
    """
    manifest = read_manifest(store, ref)
    where = store.describe(ref.key)
    if manifest.kind != expect_kind:
        raise BadDataError(
            f"{where} is a {manifest.kind}, not a {expect_kind}", "Correct the inputs of the stage spec."
        )
    _check_listing(store, ref, manifest)
    partial = directory.with_name(f".{directory.name}.partial")
    with disk_errors(directory):
        partial.mkdir(parents=True)
        try:
            _check_room(partial, manifest, where)
            wrong = [w for w in for_each(lambda entry: _download(store, ref, entry, partial), manifest.files) if w]
            if wrong:
                raise BadDataError(f"artifact {where} is damaged: {_names(wrong)}", _AGAIN)
            base = base_of(manifest)
            if base is not None:
                _place_base(store, base, (bases or partial) / base.key)
            partial.replace(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _place_base(store: Store, ref: ArtifactRef, directory: Path) -> None:
    """Makes `directory` the base, by a link where bases are kept; one that is there stays."""
    if directory.is_dir():
        return
    cache = base_cache.folder()
    if cache is None:
        fetch(store, ref, directory, BASE_KIND)
        return
    manifest = read_manifest(store, ref)

    def problem(place: Path) -> str | None:
        if place.is_symlink() or not place.is_dir():
            return "it is no folder"
        try:
            unknown = set(_files(place, "")).difference(manifest.sizes())
        except BadDataError as error:
            return error.message
        wrong = [f"{path} is not in its manifest" for path in unknown]
        wrong += [w for w in for_each(lambda entry: _difference(place, entry), manifest.files) if w]
        return _names(wrong) if wrong else None

    place = base_cache.fetch_once(
        cache, ref.digest.replace(":", "-"), lambda target: fetch(store, ref, target, BASE_KIND), problem
    )
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.unlink(missing_ok=True)  # a link to what another pod is replacing
    directory.symlink_to(place)


def _manifest_bytes(store: Store, key: str) -> bytes:
    place = f"{key}/{MANIFEST}"
    try:
        return store.read(place, MANIFEST_LIMIT)
    except ObjectNotFoundError as error:
        raise BadDataError(
            f"{store.describe(place)} is missing: the artifact was never published as a whole", _AGAIN
        ) from error


def _digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def _files(directory: Path, prefix: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _files(directory / entry.name, f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise BadDataError(f"{directory / entry.name} is a link or special file", "Publish regular files only.")


def _entry(directory: Path, path: str) -> FileEntry:
    try:
        return FileEntry(path=path, size=(directory / path).stat().st_size, sha256=file_sha256(directory / path))
    except ValidationError as error:
        raise BadDataError(f"file name {path!r} in {directory} cannot be published", "Rename the file.") from error


def _check_listing(store: Store, ref: ArtifactRef, manifest: Manifest) -> None:
    """Compares names and sizes before anything is downloaded. Files that the manifest does not name are never used."""
    sizes = manifest.sizes()
    wrong, extra = [], []
    for listed in store.list(ref.key):
        path = listed.key.removeprefix(f"{ref.key}/")
        if path == MANIFEST:
            continue
        expected = sizes.pop(path, None)
        if expected is None:
            extra.append(path)
        elif expected != listed.size:
            wrong.append(f"{path} has {listed.size} of {expected} bytes")
    wrong += [f"{path} is missing" for path in sizes]
    if wrong:
        raise BadDataError(f"artifact {store.describe(ref.key)} is damaged: {_names(wrong)}", _AGAIN)
    if extra:
        _log.warning("ignoring files that are not in the manifest of %s: %s", store.describe(ref.key), _names(extra))


def _check_room(directory: Path, manifest: Manifest, where: str) -> None:
    need, free = sum(entry.size for entry in manifest.files), shutil.disk_usage(directory).free
    if need > free:
        raise TryAgainError(
            f"the disk that holds {directory} has {free >> 20} MiB free, {where} needs {need >> 20} MiB",
            f"Give it a larger volume: of a stage, workSize in spec.pods, or the one at {BASE_CACHE}.",
        )


def _download(store: Store, ref: ArtifactRef, entry: FileEntry, directory: Path) -> str | None:
    """Downloads and verifies one file; returns what is wrong with it."""
    try:
        store.download(f"{ref.key}/{entry.path}", directory / entry.path)
    except ObjectNotFoundError:
        return f"{entry.path} is missing"
    return _difference(directory, entry)


def _difference(directory: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file; None where it is what the manifest says."""
    path = directory / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    if path.stat().st_size != entry.size:
        return f"{entry.path} has {path.stat().st_size} of {entry.size} bytes"
    return None if file_sha256(path) == entry.sha256 else f"{entry.path} was altered (its SHA-256 differs)"


def _names(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(sorted(names)[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
