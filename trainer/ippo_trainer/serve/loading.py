"""Makes a policy ready to be asked: checks it against the memory, loads it, and lets it say its first token."""

import logging
import math
import os
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import memory
from ippo_trainer.serve.engine import Engine, ResponseSampling
from ippo_trainer.serve.settings import ServedModel, ServerSettings, response_room

_MAX_ROWS = 32
_CACHE_SHARE = 0.5
_MAX_CACHE_BYTES = 2 << 30
_log = logging.getLogger(__name__)


def load(settings: ServerSettings) -> ServedModel:
    """Loads a policy; its engine is not started yet.

    Raises:
        BadDataError: no policy there, a damaged one, one too large for the memory, or one without room for a response.
        BadSpecError: the engine is not installed.
    """
    if not settings.policy.is_dir():
        raise BadDataError(
            f"there is no policy directory {settings.policy}", "Give the folder of a policy with --policy."
        )
    if settings.engine == "VLLM":
        from ippo_trainer.serve.vllm_engine import load_vllm

        return load_vllm(settings)
    return _load_transformers(settings)


async def warm_up(policy: ServedModel) -> None:
    """Lets the policy say one token, so that the first customer does not wait for what is made only once."""
    prompt = policy.renderer.prompt([], "Hello")
    async for _ in policy.engine.generate(prompt.ids, ResponseSampling(1, 1, 0.0, 1.0, 0)):
        pass


def _load_transformers(settings: ServerSettings) -> ServedModel:
    limit = memory.memory_limit()
    weights = memory.check_fits(settings.policy, True, limit)

    import torch

    from ippo_trainer.models.attention import limits
    from ippo_trainer.models.load import load_policy
    from ippo_trainer.models.verify import SHORT
    from ippo_trainer.serve.transformers_engine import EngineLimits, TransformersEngine
    from ippo_trainer.text.render import Renderer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        memory.check_fits_devices(settings.policy, True, torch.cuda.get_device_properties(0).total_memory)
    policy = load_policy(settings.policy, device, SHORT)
    renderer = Renderer.load(settings.policy, policy.tokenizer)
    config = policy.model.config
    positions = min((limit.tokens for limit in limits(config)), default=None)
    room = response_room(positions, renderer.max_prompt_tokens, settings.max_new_tokens)
    spare = _MAX_CACHE_BYTES if limit is None else int(_CACHE_SHARE * (limit - weights - memory.RUNTIME_BYTES))
    rows = _rows(config, renderer.max_prompt_tokens + room, min(spare, _MAX_CACHE_BYTES))
    _log.info(
        "loaded the policy: %d MiB of weights on %s, %d sequences at once, responses of at most %d tokens",
        *(weights >> 20, device, rows, room),
    )
    engine: Engine = TransformersEngine(
        policy.model,
        EngineLimits(renderer.max_prompt_tokens, room, rows, settings.max_waiting),
        renderer.stop_ids,
        policy.tokenizer.pad_token_id,
        _processors(),
    )
    return ServedModel(renderer, engine)


def _rows(config: Any, capacity: int, spare: int) -> int:
    """Sequences whose keys and values, in fp32, fit into so many bytes; at least one."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * 4 * config.num_hidden_layers * heads * width * capacity
    return max(1, min(_MAX_ROWS, spare // int(row)))


def _processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this container may use, whatever the stages' OMP_NUM_THREADS says."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = "", ""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text().strip() for name in names).split()
        except (OSError, ValueError):
            continue
    if quota.isdecimal() and period.isdecimal() and int(period):
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)
