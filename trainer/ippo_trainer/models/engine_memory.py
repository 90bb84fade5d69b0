"""How much memory vLLM is given, beside what a stage or a server holds itself: for plans, checks and stages alike."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ippo_trainer.contract.params import Collect
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.contract.stages import COLLECT, IMPROVE
from ippo_trainer.models.needs import explores
from ippo_trainer.models.sampling import token_bytes

CPU_CACHE_BYTES = 1 << 30
"""Of keys and values, on a CPU; of one sequence, if that is longer."""
CPU_PROCESS_BYTES = 1900 << 20
"""Of vLLM's processes on a CPU, without weights and cache."""
GPU_PROCESS_BYTES = 3 << 30
"""Of a GPU's memory: the context, activations, and the graphs that vLLM captures."""
MOST_ROWS = 1024
"""Responses that are sampled at once, at most; beyond, a GPU gets no faster."""
_CACHE_SHARE = 0.7
"""Of what weights leave of vLLM's part of a GPU."""
_BLOCK = {True: 128, False: 16}
"""Tokens that share a block of the cache, on a CPU and on a GPU."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes of one vLLM, by kind."""

    weights: int
    cache: int
    """Keys and values."""
    process: int

    @property
    def together(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.process


def engines_of(spec: StageSpec) -> int:
    """How many vLLMs a stage has at once where it samples with vLLM: an explorer that is another policy has its own."""
    return 2 if spec.stage == COLLECT and explores(spec) else 1


def rows_of(spec: StageSpec) -> int:
    """Responses that a stage has one vLLM sample at once, at most."""
    batch = MOST_ROWS if spec.stage == IMPROVE else (spec.collect or Collect()).batch_size
    return min(batch, MOST_ROWS)


def memory_of(spec: StageSpec, config: Any, parameters: int, dtype: torch.dtype, gpu: int | None) -> EngineMemory:
    """What one vLLM of a stage is given.

    A GPU is divided: between vLLM and the stage's own models, or between two vLLMs.

    Args:
        spec: of the stage.
        config, parameters, dtype, gpu: as in `engine_memory`.
    """
    length = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens
    parts = 1 if spec.stage == COLLECT and engines_of(spec) == 1 else 2
    return engine_memory(config, parameters, dtype, rows_of(spec), length, gpu, parts)


def engine_memory(
    config: Any, parameters: int, dtype: torch.dtype, rows: int, length: int, gpu: int | None, parts: int = 1
) -> EngineMemory:
    """What one vLLM is given: keys and values of all rows, or of as many as there is room for; it lets others wait.

    Args:
        config: of the model.
        parameters: of the whole model; adapters are merged.
        dtype: of weights and cache.
        rows: responses at once, at most.
        length: tokens of a prompt with its response, at most.
        gpu: bytes of the GPU's memory; None on a CPU.
        parts: into which the GPU's memory is divided; one is for this vLLM.
    """
    weights, block = parameters * dtype.itemsize, _BLOCK[gpu is None]
    row = token_bytes(config, dtype) * block * (math.ceil(length / block) + 1)
    if gpu is None:
        return EngineMemory(weights, max(row, CPU_CACHE_BYTES), CPU_PROCESS_BYTES)
    room = int(_CACHE_SHARE * (gpu / parts - weights - GPU_PROCESS_BYTES))
    return EngineMemory(weights, max(row, min(rows * row, room)), GPU_PROCESS_BYTES)
