"""Whether a command is about a folder of this machine or about a run in a cluster."""

from argparse import Namespace
from pathlib import Path


def is_folder(arguments: Namespace, place: str | None) -> bool:
    """A path, or the name of a folder that exists, is a folder, unless an option for clusters says otherwise."""
    if not place or arguments.namespace or arguments.context or arguments.kubeconfig:
        return False
    return "/" in place or Path(place).is_dir()
