"""Checkpoints of a running stage: one directory, replaced as a whole.

Files go to a folder of their own, as an artifact; then `pointer.json` is overwritten to name it; then the one before
is deleted. A kill at any moment leaves the old or the new checkpoint.
"""

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.spec import ArtifactRef, Digest
from ippo_trainer.store.artifact import fetch, publish
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError, Store
from ippo_trainer.store.parallel import for_each

POINTER = "pointer.json"
PROBE = "probe"
KIND = "checkpoint"
_log = logging.getLogger(__name__)


class Pointer(Model):
    """The newest checkpoint: where it is, the step it was saved at, and the inputs of the stage that saved it."""

    artifact: ArtifactRef
    step: Annotated[int, Field(ge=0)]
    input_digest: Digest
    source: Digest | None = None
    """Of the environment's files; None where it has none, or the stage was one of release 0.2."""


@dataclass(frozen=True, slots=True)
class StageCheckpoint:
    """The checkpoint of one stage, or of one shard of it.

    Args:
        store: where it is.
        folder: key of the folder that holds nothing else.
        input_digest: of the stage; it never goes on from another one's.
        source: digest of the environment's files; None where it has none, or nothing depends on them yet.
    """

    store: Store
    folder: str
    input_digest: Digest
    source: Digest | None = None

    def save(self, directory: Path, step: int) -> None:
        """Makes the files of `directory` the checkpoint at `step`."""
        before = _pointer(self.store, self.folder)
        metadata: dict[str, JsonValue] = {"step": step, "inputDigest": self.input_digest}
        ref = publish(self.store, self.folder, directory, KIND, metadata=metadata)
        pointer = Pointer(artifact=ref, step=step, input_digest=self.input_digest, source=self.source)
        content = pointer.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.store.put(f"{self.folder}/{POINTER}", canonical_json(content))
        if before is not None and before.artifact.key != ref.key:
            _delete(self.store, before.artifact.key)

    def load(self, directory: Path) -> int | None:
        """Writes the newest checkpoint's files into `directory` (new or empty) and returns its step.

        None means: start from the beginning. A checkpoint that is damaged, or was saved by a stage with other inputs,
        is left aside with a warning. What a kill left half-saved is deleted.
        """
        pointer, where = _pointer(self.store, self.folder), self.store.describe(self.folder)
        _sweep(self.store, self.folder, pointer)
        if pointer is None:
            return None
        if pointer.input_digest != self.input_digest:
            _log.warning("%s is of a stage with other inputs: starting over", where)
            return None
        if None not in (pointer.source, self.source) and pointer.source != self.source:
            _log.warning("%s was made with another source of the environment: starting over", where)
            return None
        try:
            fetch(self.store, pointer.artifact, directory, KIND)
        except BadDataError as error:
            _log.warning("cannot resume from step %d, starting over: %s", pointer.step, error.message)
            return None
        return pointer.step

    def check_writable(self) -> None:
        """Puts an object where checkpoints go, and deletes it: what a store lacks is noticed before the work.

        Without the right to delete, the second checkpoint could not take the place of the first. Without conditional
        puts (some S3 services ignore the header) two attempts of a stage could both publish a result.

        Raises:
            BadSpecError: the store refuses to be written, or to delete, or replaces what a conditional put must leave.
            TryAgainError: the store does not answer, or the disk is full.
        """
        key = f"{self.folder}/{PROBE}-{uuid.uuid4().hex}"  # of its own: another attempt may look at the same time
        self.store.put(key, b"This stage can write.\n")
        try:
            self.store.put(key, b"This must not be.\n", if_absent=True)
        except ObjectExistsError:
            self.store.delete(key)
            return
        self.store.delete(key)
        raise BadSpecError(
            f"{self.store.describe(self.folder)}: the store ignores conditional puts (If-None-Match: *)",
            "Use a store that knows them, such as Amazon S3, MinIO or Ceph of a recent version; see docs/artifacts.md.",
        )

    def clear(self) -> None:
        """Deletes it, as the stage has ended; the pointer first, so that none is found half deleted."""
        self.store.delete(f"{self.folder}/{POINTER}")
        _delete(self.store, self.folder)


def _pointer(store: Store, folder_key: str) -> Pointer | None:
    key = f"{folder_key}/{POINTER}"
    try:
        pointer = Pointer.model_validate_json(store.read(key, 1 << 16))
    except ObjectNotFoundError:
        return None
    except (ValidationError, BadDataError):
        _log.warning("%s is damaged: starting over", store.describe(key))
        return None
    if not pointer.artifact.key.startswith(f"{folder_key}/"):
        _log.warning("%s points out of its folder: starting over", store.describe(key))
        return None
    return pointer


def _sweep(store: Store, folder_key: str, pointer: Pointer | None) -> None:
    keep = f"{pointer.artifact.key}/" if pointer else None
    pointer_key = f"{folder_key}/{POINTER}"
    stale = (listed.key for listed in store.list(folder_key) if listed.key != pointer_key)
    for_each(store.delete, (key for key in stale if keep is None or not key.startswith(keep)))


def _delete(store: Store, folder_key: str) -> None:
    for_each(store.delete, (listed.key for listed in store.list(folder_key)))
