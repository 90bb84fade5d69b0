"""Whether a command is about a folder of this machine or about a run in a cluster."""

from argparse import Namespace
from pathlib import Path

from ippo_operator.cli.cluster_flags import given


def is_folder(arguments: Namespace, place: str | None) -> bool:
    """A path, or the name of a folder that exists, is a folder, unless a flag for clusters says otherwise."""
    if not place or given(arguments):
        return False
    return "/" in place or Path(place).is_dir()
