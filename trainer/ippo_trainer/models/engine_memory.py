"""How much memory vLLM is given, beside what a stage or a server holds itself."""

import math
from typing import Any

import torch

from ippo_trainer.models.sampling import DEVICE_SHARE, token_bytes

CPU_CACHE_BYTES = 1 << 30
"""Of keys and values, on a CPU; of one sequence, if that is longer."""
CPU_PROCESS_BYTES = 1900 << 20
"""Of vLLM's processes on a CPU, without weights and cache."""
MOST_ROWS = 1024
"""Responses that are sampled at once, at most; beyond, a GPU gets no faster."""
GPU_PROCESS_BYTES = 3 << 30
"""Of a GPU's memory: the context, activations, and the graphs that vLLM captures."""
_BLOCK = {True: 128, False: 16}
"""Tokens that share a block of the cache, on a CPU and on a GPU."""


def cache_bytes(config: Any, dtype: torch.dtype, rows: int, length: int, gpu: int | None, parts: int = 1) -> int:
    """Bytes for keys and values: of all rows, or of as many as there is room for; vLLM lets the others wait.

    Args:
        config: of the model.
        dtype: of the cache.
        rows: responses at once, at most.
        length: tokens of a prompt with its response, at most.
        gpu: bytes of the GPU's memory; None on a CPU.
        parts: into which the GPU's memory is divided; one is for the weights and caches of this vLLM.
    """
    block = _BLOCK[gpu is None]
    row = token_bytes(config, dtype) * block * (math.ceil(length / block) + 1)
    most = CPU_CACHE_BYTES if gpu is None else int(DEVICE_SHARE * gpu / parts)
    return max(row, most if gpu is None else min(rows * row, most))


def gpu_share(weights: int, cache: int, gpu: int) -> float:
    """Share of a GPU's memory that vLLM may take, for weights and a cache of so many bytes."""
    return min(0.95, (weights + cache + GPU_PROCESS_BYTES) / gpu)
