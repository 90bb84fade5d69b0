"""Whether a model fits into the memory of this container, seen before it is loaded."""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.files import ADAPTER_WEIGHTS, model_files, weight_files

if TYPE_CHECKING:
    import torch

# Of a process that has loaded torch and transformers, and nothing else yet.
RUNTIME_BYTES = 450 << 20
SERVING = "Raise spec.pods.serve.resources.limits.memory."
"""What to do about a server's memory."""
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1
_HEADER_LIMIT = 100 << 20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this container may use: its cgroup's limit or the machine's memory; None where neither is known."""
    limits = []
    for name in _LIMITS:
        text = _read(cgroup / name).strip()
        if text.isdecimal():
            limits.append(int(text))
    total = _field(meminfo, "MemTotal")
    return min(limits if total is None else [*limits, total], default=None)


def held(status: Path = Path("/proc/self/status")) -> int:
    """Bytes that this process holds and the kernel cannot take back as it can files'; 0 where that is not known."""
    return _field(status, "RssAnon") or 0


def peak_of_descendants(proc: Path = Path("/proc"), process: int | None = None) -> int:
    """Bytes that the processes below one held at most, each at its own time; 0 where that is not known.

    Args:
        proc: where the kernel tells of processes.
        process: whose; None takes this one.
    """
    folders = [folder for folder in proc.glob("[0-9]*") if folder.name.isdecimal()]
    parents = {int(folder.name): _number(folder / "status", "PPid") for folder in folders}
    below, news = set[int](), {os.getpid() if process is None else process}
    while news := {child for child, parent in parents.items() if parent in news} - below:
        below |= news
    return sum(_field(proc / str(child) / "status", "VmHWM") or 0 for child in below)


def free_bytes(device: "torch.device") -> int:
    """Bytes that are free on a GPU, those included that torch holds without using them."""
    import torch  # a server that asks whether a model fits has not loaded it yet

    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def stored_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of a model's weights as they are stored, from the sizes in bytes of its directory's files, by name; of an
    adapter without its base's."""
    return sum(sizes[name] for name in weight_files(sizes)) + sizes.get(ADAPTER_WEIGHTS, 0)


def loaded_bytes(directory: Path) -> int:
    """Bytes of a model's weights in fp32, 0 without any. Raises BadDataError for a damaged file."""
    return sum(_file_bytes(directory / name, True) for name in weight_files(path.name for path in directory.iterdir()))


def weights_bytes(directory: Path, as_float32: bool) -> int:
    """Bytes of a model's weights in memory; of an adapter, with its base's.

    Args:
        directory: with `*.safetensors`.
        as_float32: they are converted when they are loaded; else they stay as they are stored.

    Raises:
        BadDataError: no such file, or a damaged one.
    """
    files = model_files(directory)
    if not files:
        raise BadDataError(
            f"there is no model in {directory}: it holds no *.safetensors", "Give the folder of a policy with --policy."
        )
    return sum(_file_bytes(path, as_float32) for path in files)


def check_fits(directory: Path, as_float32: bool, limit: int | None, runtime: int = RUNTIME_BYTES) -> int:
    """Bytes of the weights, if they and `runtime` bytes fit below `limit` (None: not known); else BadDataError."""
    weights = weights_bytes(directory, as_float32)
    check_room("the model needs", weights + runtime, "this container has", limit, SERVING)
    return weights


def check_room(who: str, need: int, where: str, limit: int | None, remedy: str) -> None:
    """Raises BadDataError if more memory is needed than there is.

    Args:
        who: needs it, with the verb: "the model needs".
        need: bytes.
        where: it would have to be, with the verb: "this container has".
        limit: bytes that are there; None: not known.
        remedy: of the error.
    """
    if limit is not None and need > limit:
        raise BadDataError(f"{who} {mebibytes(need)} of memory, {where} {limit >> 20} MiB", remedy)


def check_fits_devices(directory: Path, as_float32: bool, total: int) -> None:
    """Raises BadDataError if the weights are larger than the memory of the GPUs, `total` bytes."""
    remedy = "Ask for more or larger GPUs in spec.pods.serve.resources."
    check_room("the model needs", weights_bytes(directory, as_float32), "this container's GPUs have", total, remedy)


def foreign_bytes(device: "torch.device") -> int:
    """Bytes of a GPU's memory that others than this process's tensors hold."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return int(total - free - torch.cuda.memory_reserved(device))


def mebibytes(count: int) -> str:
    """Bytes in words, rounded up."""
    return f"{math.ceil(count / (1 << 20))} MiB"


def _file_bytes(path: Path, as_float32: bool) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(t["shape"]) * (4 if as_float32 else _WIDTHS.get(t["dtype"], 1)) for t in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BadDataError(f"{path} is damaged: {error}", "Fetch the model again.") from error


def _field(path: Path, name: str) -> int | None:
    """Bytes that a line of a file in /proc tells, in KiB."""
    number = _number(path, name)
    return None if number is None else number << 10


def _number(path: Path, name: str) -> int | None:
    """What a line of a file in /proc tells."""
    for line in _read(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
