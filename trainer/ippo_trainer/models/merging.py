"""A policy with an adapter as a whole model, for tools that know no adapters: vLLM, and a user's own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_trainer.models import adapters
from ippo_trainer.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_of
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.verify import SHORT


def write_merged(policy: Path, target: Path) -> None:
    """Writes the whole model of a policy with an adapter, in fp32, and all else that is in its directory.

    Args:
        policy: directory of the adapter; its base lies as `files.base_directory` says.
        target: a directory that is not there yet, or empty.

    Raises:
        BadDataError: as `load_policy`.
    """
    model = adapters.merge(load_policy(policy, longest=SHORT).model)
    model.save_pretrained(target)
    for path in policy.iterdir():
        if path.is_file() and path.name not in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


@contextmanager
def whole(policy: Path) -> Iterator[Path]:
    """A directory with the whole model of a policy: its own, or a temporary one for an adapter."""
    if base_of(policy) is None:
        yield policy
        return
    with tempfile.TemporaryDirectory(prefix="ippo-merged-") as place:
        write_merged(policy, Path(place))
        yield Path(place)
