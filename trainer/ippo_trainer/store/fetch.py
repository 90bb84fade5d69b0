"""`python -m ippo_trainer.store.fetch`: downloads an artifact and verifies it, before something is started from it."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ippo_trainer.contract.errors import BadSpecError, StageError
from ippo_trainer.contract.spec import ArtifactRef, StoreLocation
from ippo_trainer.models import memory
from ippo_trainer.models.files import base_of
from ippo_trainer.store import artifact, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or that of the stage contract, with one line that says why."""
    arguments = _parser().parse_args(argv)
    try:
        location, ref = _source(arguments)
        fetch(location, ref, arguments.kind, arguments.to, arguments.fits_memory)
        if arguments.merged:
            merge(arguments.to)
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{arguments.key} is in {arguments.to}, verified: {arguments.digest}")
    return 0


def fetch(location: StoreLocation, ref: ArtifactRef, kind: str, directory: Path, fits_memory: bool = False) -> None:
    """Makes `directory` the verified artifact, whatever an interrupted fetch left there.

    Args:
        location: of the store.
        ref: the artifact.
        kind: of the artifact, e.g. policy.
        directory: replaced if it is there.
        fits_memory: nothing is downloaded unless the weights are smaller than this container's memory.

    Raises:
        BadSpecError: the store refuses access.
        BadDataError: the artifact is missing, damaged, of another kind or too large for the memory.
        TryAgainError: the store does not answer, or the disk is full.
    """
    for remains in (directory, directory.with_name(f".{directory.name}.partial")):
        if remains.exists():
            shutil.rmtree(remains)
    store = open_store(location)
    if fits_memory:
        manifest = artifact.read_manifest(store, ref)
        parts = [manifest, *([artifact.read_manifest(store, base)] if (base := artifact.base_of(manifest)) else [])]
        need = sum(memory.stored_bytes(part.sizes()) for part in parts) + memory.RUNTIME_BYTES
        memory.check_room("the model needs", need, "this container has", memory.memory_limit(), memory.SERVING)
    artifact.fetch(store, ref, directory, kind)


def merge(directory: Path) -> None:
    """Replaces a policy with an adapter by its whole model; one that is whole stays.

    Raises:
        BadDataError: it cannot be loaded.
    """
    if base_of(directory) is None:
        return
    from ippo_trainer.models.merging import write_merged  # torch, which a plain fetch does without

    target = directory.with_name(f".{directory.name}.merged")
    shutil.rmtree(target, ignore_errors=True)
    write_merged(directory, target)
    shutil.rmtree(directory)
    target.replace(directory)


def _source(arguments: argparse.Namespace) -> tuple[StoreLocation, ArtifactRef]:
    """What to fetch. Raises BadSpecError if the arguments are wrong."""
    try:
        location = StoreLocation.model_validate_json(arguments.store)
        return location, ArtifactRef(key=arguments.key, digest=arguments.digest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "--store"
        raise BadSpecError(f"{where}: {first['msg']}", "Correct the argument.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ippo_trainer.store.fetch", description=__doc__)
    parser.add_argument("--store", required=True, metavar="JSON", help='e.g. {"s3": {"bucket": "b", "prefix": "p"}}')
    parser.add_argument("--key", required=True, help="of the artifact, below the store's prefix")
    parser.add_argument("--digest", required=True, help="of the artifact, sha256:…")
    parser.add_argument("--kind", required=True, help="of the artifact, e.g. policy")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="replaced if it is there")
    parser.add_argument(
        "--fits-memory", action="store_true", help="refuse a model that is larger than the memory of this container"
    )
    parser.add_argument(
        "--merged",
        action="store_true",
        help="of a policy with an adapter, write the whole model, which any tool loads; else its base comes with it, "
        "in a folder below",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
