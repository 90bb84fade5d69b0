"""Starts vLLM: what the servers' engine and the stages' sampler have in common."""

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ippo_trainer.contract.command_line import SHARED_FOLDER
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.variables import VLLM_ARGUMENTS
from ippo_trainer.models.engine_memory import CPU_CACHE_BYTES
from ippo_trainer.models.files import read_config

_log = logging.getLogger(__name__)
_EXAMPLE = 'Write for example {"gpu_memory_utilization": 0.8}.'
# vLLM would ask the internet for what it has, and tell it what it runs.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}

SHARED_BYTES = 160 << 20
"""Of /dev/shm, in which vLLM's processes exchange messages."""
_STEP_TOKENS = 4096
"""Of prompts that are read in one step on a CPU, if none is longer."""
_SHARED = Path(SHARED_FOLDER)


def installed() -> bool:
    """Whether this image has vLLM."""
    return importlib.util.find_spec("vllm") is not None


def supports(config: Any) -> bool:
    """Whether vLLM has an architecture of a model's config."""
    from vllm import ModelRegistry

    return bool(ModelRegistry.get_supported_archs() & set(config.architectures or ()))


@contextmanager
def starting(remedy: str, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Inside, vLLM is imported and started.

    Args:
        remedy: where it is not installed.
        variables: of the environment, for vLLM's processes.

    Raises:
        BadSpecError: vLLM is not installed, or `IPPO_VLLM_ARGS` names arguments that it does not have.
        BadDataError: it cannot load the model.
    """
    import torch

    os.environ.update(_OFFLINE)
    variables = dict(variables or {})
    if not torch.cuda.is_available():
        # Even eager vLLM compiles how log-probabilities are ranked; images have no C++ compiler, and nobody asks.
        variables["TORCH_COMPILE_DISABLE"] = "1"
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    except ImportError as error:
        raise BadSpecError(f"vLLM cannot be loaded: {error}", remedy) from error
    except TypeError as error:
        raise BadSpecError(f"{VLLM_ARGUMENTS}: {error}", "Use the names of vLLM's AsyncEngineArgs.") from error
    except (ValueError, RuntimeError) as error:
        raise BadDataError(f"vLLM cannot load the policy: {error}", "Its log above says more.") from error
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _check_shared_memory() -> None:
    """vLLM's own error is in a log of another process. Raises BadSpecError."""
    if not _SHARED.is_dir():
        return
    free = shutil.disk_usage(_SHARED).free
    if free < SHARED_BYTES:
        raise BadSpecError(
            f"vLLM's processes need {SHARED_BYTES >> 20} MiB in {_SHARED}, which has {free >> 20} MiB free",
            "Set sharedMemory of the stage's or the servers' pods (spec.pods) to 1Gi; a container of your own takes "
            "--shm-size.",
        )


def arguments(model: Path, length: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's engine. `IPPO_VLLM_ARGS`, JSON, overrides any of them.

    Args:
        model: directory of a whole model.
        length: tokens of a prompt with its response, at most.
        own: what the caller wants.

    Raises:
        BadSpecError: the variable is no JSON object, or vLLM's processes have no room for messages.
    """
    import torch

    common: dict[str, Any] = {
        "model": str(model),
        "max_model_len": length,
        "generation_config": "vllm",  # the file's sampling settings are not the policy's
    }
    if torch.cuda.is_available():
        common["tensor_parallel_size"] = parallel(read_config(model), torch.cuda.device_count())
    else:
        # Compiling needs a C++ compiler, which images have not. And a prompt that is read in two parts sets a seeded
        # generator back, which those of a CPU cannot: vLLM 0.32 dies of it.
        common |= {
            "enforce_eager": True,
            "kv_cache_memory_bytes": CPU_CACHE_BYTES,
            "enable_chunked_prefill": False,
        }
    result = common | dict(own) | _users(os.environ.get(VLLM_ARGUMENTS, ""))
    if not result.get("enable_chunked_prefill", True):  # then a step has to hold the longest prompt, and all rows
        fewest = max(int(result["max_model_len"]), int(result.get("max_num_seqs") or 0), _STEP_TOKENS)
        result.setdefault("max_num_batched_tokens", fewest)
    if not torch.cuda.is_available() or result["tensor_parallel_size"] != 1:  # else one process does it all
        _check_shared_memory()
    return result


def parallel(config: Mapping[str, Any], devices: int) -> int:
    """Over how many of so many GPUs a model is divided: its heads must be divisible, too.

    Args:
        config: content of its config.json.
        devices: that there are.
    """
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    groups = int(config.get("num_key_value_heads") or heads)
    size = max(n for n in range(1, devices + 1) if heads % n == 0 and (groups % n == 0 or n % groups == 0))
    if size < devices:
        _log.warning(
            "vLLM takes %d of %d GPUs: more do not divide %d heads with %d of keys", size, devices, heads, groups
        )
    return size


def _users(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise BadSpecError(f"{VLLM_ARGUMENTS} is not JSON: {error}", _EXAMPLE) from error
    if not isinstance(value, dict):
        raise BadSpecError(f"{VLLM_ARGUMENTS} is no JSON object", _EXAMPLE)
    return value
