"""What an environment is made of besides its name and options: the content of its files, wherever they lie."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import digest_of, file_sha256

_NOT_OURS = {"site-packages", "dist-packages"}
_OWN_PACKAGES = {"ippo_trainer", "ippo_operator", "__main__"}


def source_digest(spec: params.EnvironmentSpec) -> str | None:
    """Digest of an environment's own file or module, of what it imported from beside it, and of files in its options.

    It is the same on every machine: places do not count. None for a built-in environment without files: its source is
    the release's. Call it after the environment was loaded.
    """
    files = dict(_source_files(spec.name)) | dict(_option_files(spec))
    return digest_of({name: file_sha256(path) for name, path in files.items()}) if files else None


def _source_files(name: str) -> Iterator[tuple[str, Path]]:
    if name in params.BUILT_IN_ENVIRONMENTS:
        return
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        file = Path(place).resolve()
        yield "source", file
        yield from _beside(file)
        return
    top = place.partition(".")[0]
    for module, file in _loaded():
        if module.partition(".")[0] == top:
            yield f"module {module}", file


def _beside(source: Path) -> Iterator[tuple[str, Path]]:
    """Modules from the folder of the file, such as helpers of its author."""
    for _, file in _loaded():
        if file != source and file.is_relative_to(source.parent):
            yield f"beside {file.relative_to(source.parent).as_posix()}", file


def _loaded() -> Iterator[tuple[str, Path]]:
    """Modules that have a source file, but for installed packages and this one."""
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or name.partition(".")[0] in _OWN_PACKAGES:
            continue
        if not _NOT_OURS.isdisjoint(Path(file).parts):  # before the look at the disk: there are thousands
            continue
        path = Path(file).resolve()
        if path.is_file() and not _NOT_OURS.intersection(path.parts):
            yield name, path


def _option_files(spec: params.EnvironmentSpec) -> Iterator[tuple[str, Path]]:
    for option, value in sorted(spec.options.items()):
        try:
            if isinstance(value, str) and value and Path(value).is_file():
                yield f"options.{option}", Path(value)
        except (OSError, ValueError):  # no path at all, such as a text of a kilobyte
            continue
