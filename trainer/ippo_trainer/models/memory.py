"""Whether a model fits into the memory of this container, seen before it is loaded."""

import json
import math
import struct
from pathlib import Path

from ippo_trainer.contract.errors import BadDataError

# Of a process that has loaded torch and transformers, and nothing else yet.
RUNTIME_BYTES = 450 << 20
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1
_HEADER_LIMIT = 100 << 20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this container may use: its cgroup's limit or the machine's memory; None where neither is known."""
    found = []
    for name in _LIMITS:
        text = _read(cgroup / name).strip()
        if text.isdecimal():
            found.append(int(text))
    for line in _read(meminfo).splitlines():
        if line.startswith("MemTotal:"):
            found.append(int(line.split()[1]) << 10)
    return min(found, default=None)


def weights_bytes(directory: Path, as_float32: bool) -> int:
    """Bytes of a model's weights in memory.

    Args:
        directory: with `*.safetensors`.
        as_float32: they are converted when they are loaded; else they stay as they are stored.

    Raises:
        BadDataError: no such file, or a damaged one.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise BadDataError(
            f"there is no model in {directory}: it holds no *.safetensors", "Give the folder of a policy with --policy."
        )
    return sum(_file_bytes(path, as_float32) for path in files)


def check_fits(directory: Path, as_float32: bool, limit: int | None, runtime: int = RUNTIME_BYTES) -> int:
    """Bytes of the weights, if they and `runtime` bytes fit below `limit` (None: not known); else BadDataError."""
    weights = weights_bytes(directory, as_float32)
    check_room(weights + runtime, limit)
    return weights


def check_room(need: int, limit: int | None) -> None:
    """Raises BadDataError if a model needs more bytes than the container has (None: not known)."""
    if limit is not None and need > limit:
        raise BadDataError(
            f"the model needs {_mebibytes(need)} of memory, this container has {limit >> 20} MiB",
            "Raise spec.pods.serve.resources.limits.memory.",
        )


def check_fits_devices(directory: Path, as_float32: bool, total: int) -> None:
    """Raises BadDataError if the weights are larger than the memory of the GPUs, `total` bytes."""
    weights = weights_bytes(directory, as_float32)
    if weights > total:
        raise BadDataError(
            f"the model's weights take {_mebibytes(weights)}, this container's GPUs have {total >> 20} MiB",
            "Ask for more or larger GPUs in spec.pods.serve.resources.",
        )


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
        raise BadDataError(f"{path} is damaged: {error}", "Fetch the policy again.") from error


def _mebibytes(count: int) -> str:
    return f"{math.ceil(count / (1 << 20))} MiB"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
