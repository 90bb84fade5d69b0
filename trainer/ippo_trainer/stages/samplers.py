"""Which sampler a stage uses, and how vLLM is started for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers import AutoConfig

from ippo_trainer.contract.errors import BadDataError, BadSpecError, TryAgainError
from ippo_trainer.contract.params import Collect, EngineName
from ippo_trainer.contract.stages import BY_NAME
from ippo_trainer.engines import vllm_sampler, vllm_start
from ippo_trainer.engines.vllm_sampler import VllmSampler, check_temperature
from ippo_trainer.models.engine_memory import EngineMemory, engines_of, memory_of, rows_of
from ippo_trainer.models.memory import check_room, weights_bytes
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.runtime import StageContext

TRANSFORMERS: Final = "Transformers"
VLLM: Final = "VLLM"


class _Gpu(NamedTuple):
    """Bytes of a GPU's memory."""

    total: int
    free: int


def sampler_of(ctx: StageContext, policy: Path, explores: bool = False) -> EngineName:
    """What samples conversations, as `collect.simulate.sampler` says.

    Args:
        ctx: of collect or evaluate.
        policy: directory of one of the policies; all are of one architecture.
        explores: whether the explorer's suggestions are sampled, too.

    Raises:
        BadSpecError: vLLM is asked for where it is not installed, or for what it cannot do.
    """
    settings = ctx.spec.collect or Collect()
    if settings.sampler == TRANSFORMERS:
        return TRANSFORMERS
    if settings.sampler == VLLM:
        check_installed(ctx, "collect.simulate.sampler")
        _check_temperatures(settings, explores)
        return VLLM
    if not _suits(ctx, settings, policy, explores):
        return TRANSFORMERS
    gpu, need = _gpu(device_of(ctx.spec)), engines_of(ctx.spec) * _memory(ctx, policy).together
    return VLLM if gpu is None or need <= gpu.free else TRANSFORMERS


def check_installed(ctx: StageContext, field: str) -> None:
    """Raises BadSpecError if a field of the manifest asks for vLLM and this image has none."""
    if not vllm_start.installed():
        raise BadSpecError(f"{field} is VLLM, and there is no vLLM here", _remedy(ctx, field))


@contextmanager
def vllm(ctx: StageContext, policy: Path) -> Iterator[VllmSampler]:
    """vLLM with a policy, on the stage's device.

    Args:
        ctx: of the stage.
        policy: its directory.

    Raises:
        BadSpecError, BadDataError: vLLM cannot be started.
        TryAgainError: it died; a stage that was told to stop raises StoppedError instead.
    """
    device = device_of(ctx.spec)
    memory, gpu = _memory(ctx, policy), _gpu(device)
    if gpu is not None:
        remedy = f"Give spec.pods.{BY_NAME[ctx.spec.stage].field} a larger GPU, or set the sampler to Transformers."
        check_room("vLLM needs", memory.together, "this GPU has free", gpu.free, remedy)
    settings = vllm_sampler.EngineSettings(
        length=ctx.spec.policy.max_prompt_tokens + ctx.spec.policy.max_new_tokens,
        rows=rows_of(ctx.spec),
        dtype=str(precision_for(ctx.spec, device).dtype).removeprefix("torch."),
        cache_bytes=memory.cache,
        share=None if gpu is None else memory.together / gpu.total,
        threads=ctx.spec.threads,
    )
    ctx.log.info("starting vLLM: %d responses at once, %d MiB for keys and values", settings.rows, memory.cache >> 20)
    try:
        with vllm_sampler.running(policy, settings, _remedy(ctx, "the sampler")) as sampler:
            try:
                yield sampler
            finally:
                ctx.note_others()
    except TryAgainError:
        ctx.check_stop()  # a Ctrl-C goes to vLLM's processes, too
        raise


def _suits(ctx: StageContext, settings: Collect, policy: Path, explores: bool) -> bool:
    """Whether `Auto` takes vLLM. A tiny model is through before vLLM has started."""
    if device_of(ctx.spec).type == "cpu" or ctx.spec.policy.base.startswith("tiny:") or not vllm_start.installed():
        return False
    try:
        _check_temperatures(settings, explores)
    except BadSpecError:
        return False
    return vllm_start.supports(config_of(policy))


def _memory(ctx: StageContext, policy: Path) -> EngineMemory:
    device = device_of(ctx.spec)
    gpu, parameters = _gpu(device), weights_bytes(policy, True) // torch.float32.itemsize
    dtype = precision_for(ctx.spec, device).dtype
    return memory_of(ctx.spec, config_of(policy), parameters, dtype, gpu and gpu.total)


def _gpu(device: torch.device) -> _Gpu | None:
    """None on a CPU."""
    if device.type == "cpu":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return _Gpu(total, free)


def config_of(policy: Path) -> Any:
    """The config of a policy's model. Raises BadDataError."""
    try:
        return AutoConfig.from_pretrained(policy, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadDataError(f"the model in {policy} has no usable config.json: {error}", "Fetch it again.") from error


def _check_temperatures(settings: Collect, explores: bool) -> None:
    check_temperature("collect.simulate.temperature", float(settings.temperature))
    if explores:
        check_temperature("collect.simulate.explorationTemperature", settings.explorer_temperature)


def _remedy(ctx: StageContext, field: str) -> str:
    pods = f"spec.pods.{BY_NAME[ctx.spec.stage].field}"
    return f"Name an image with vLLM in {pods}.image, or set {field} to Transformers."
