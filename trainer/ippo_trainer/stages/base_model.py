"""`policy.base` as a directory of one whole model: a stranger's, or the policy of another run."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ippo_trainer.contract.layout import SEGMENT, check_key
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.contract.stages import BY_NAME, IMPROVE
from ippo_trainer.models import memory
from ippo_trainer.models.files import ADAPTER_CONFIG, base_of, check_files, loaded_files
from ippo_trainer.models.merging import write_merged
from ippo_trainer.store import artifact, open_store
from ippo_trainer.store.uri import fetch_directory, location_of
from ippo_trainer.text.render import FILE as PROMPT

FIELD = "policy.base"
_POLICY = re.compile(rf"(?P<run>s3://.+?)/+(?P<key>iterations/[0-9]+/{BY_NAME[IMPROVE].folder}/{SEGMENT})/*")
"""A run's folder, and in it the key of one of its policies."""


def fetch_base(uri: str, work: Path, own: StoreLocation, check: Callable[[int], None]) -> Path:
    """The local directory of a base, `file://` or `s3://`; of S3 only what is loaded is downloaded.

    Adapters of a run's policy are merged with their base, which lies in the same run's folder.

    Args:
        uri: of the directory.
        work: a directory for what has to be downloaded or merged.
        own: the run's store, whose endpoint and credentials S3 is read with.
        check: gets the bytes of the model's weights, as stored before a download and as loaded after it; may raise.

    Raises:
        BadSpecError: a place that cannot be read.
        BadDataError: there is nothing, nothing that can be loaded, or a policy whose base is gone.
    """
    directory = _policy_in_s3(uri, work / "of-a-run", own, check)
    if directory is None:

        def check_listing(sizes: Mapping[str, int]) -> None:
            check_files(sizes, uri)
            check(memory.stored_bytes(sizes))

        directory = fetch_directory(uri, work / "base", own, FIELD, check_listing, _needed_files)
    check(memory.loaded_bytes(directory))
    if base_of(directory) is None:
        return directory
    write_merged(directory, work / "merged")
    return work / "merged"


def is_policy(directory: Path) -> bool:
    """Whether a base was a run's policy, which has met the notes in prompts."""
    return (directory / PROMPT).is_file()


def _needed_files(names: Iterable[str]) -> list[str]:
    names = list(names)
    return loaded_files(names) + [name for name in names if name == PROMPT]


def _policy_in_s3(uri: str, directory: Path, own: StoreLocation, check: Callable[[int], None]) -> Path | None:
    """Of the policy of a run that is an adapter, a verified copy with its base; None of any other base.

    On a disk it is taken where it is, and its base above it.
    """
    match = _POLICY.fullmatch(uri)
    if match is None:
        return None
    key = check_key(match["key"])
    store = open_store(location_of(match["run"], FIELD, own.s3))
    if store.info(f"{key}/{ADAPTER_CONFIG}") is None:
        return None
    ref = artifact.reference(store, key)
    parts = [artifact.read_manifest(store, ref)]
    base = artifact.base_of(parts[0])
    if base is not None:
        parts.append(artifact.read_manifest(store, base))
    check(sum(memory.stored_bytes(part.sizes()) for part in parts))
    artifact.fetch(store, ref, directory, str(BY_NAME[IMPROVE].artifact))
    return directory
