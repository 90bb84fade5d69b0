"""The engine for GPUs: vLLM in this process. It gets token ids, so prompts are those of training, and returns them."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.engines import vllm_start
from ippo_trainer.models import memory
from ippo_trainer.models.engine_memory import CPU_CACHE_BYTES, CPU_PROCESS_BYTES
from ippo_trainer.serve.engine import EngineDiedError, Piece, QueueFullError, RefusedError, ResponseSampling
from ippo_trainer.serve.settings import ServedModel, ServerSettings, response_room

_MAX_SAMPLES = 16


class VllmEngine:
    """Runs vLLM's own scheduler.

    Args:
        llm: an AsyncLLM, whose `logprobs_mode` is `processed_logprobs`.
        max_new_tokens: of one response.
        max_waiting: requests beyond those that run; more get QueueFullError.
        max_running: requests that vLLM runs at once.
        stop_ids: a response ends with the first of these.
    """

    def __init__(
        self,
        llm: Any,
        max_new_tokens: int,
        max_waiting: int,
        max_running: int,
        stop_ids: frozenset[int],
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.max_samples = min(_MAX_SAMPLES, max_running)
        self._llm, self._stop_ids = llm, stop_ids
        self._max_waiting, self._max_running = max_waiting, max_running
        self._open = 0

    def start(self) -> None:
        """As `Engine`. vLLM starts by itself."""

    async def generate(self, prompt: Sequence[int], sampling: ResponseSampling) -> AsyncGenerator[Piece, None]:
        """As `Engine`."""
        from vllm import TokensPrompt
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self.waiting() >= self._max_waiting:
            raise QueueFullError
        params = self._vllm_params(sampling)
        # vLLM makes one greedy response; more of them would be the same.
        copies = sampling.samples if sampling.temperature == 0 else 1
        pieces = self._llm.generate(TokensPrompt(prompt_token_ids=list(prompt)), params, uuid.uuid4().hex)
        self._open += 1
        try:
            async for output in pieces:
                for each in output.outputs:
                    finish: Any = each.finish_reason
                    if finish not in (None, "stop", "length"):
                        raise EngineDiedError(f"vLLM ended a response with {finish}")
                    logprobs = self._logprobs_of(each, sampling) if sampling.logprobs else None
                    for copy in range(copies):
                        yield Piece(each.index + copy, list(each.token_ids), finish, logprobs)
        except VLLMClientError as error:
            raise RefusedError(str(error)) from error
        except GracefulHTTPError as error:  # a limit that IPPO_VLLM_ARGS sets
            raise QueueFullError from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineDiedError(f"{type(error).__name__}: {error}") from error
        finally:
            self._open -= 1
            await pieces.aclose()

    def waiting(self) -> int:
        """As `Engine`; an estimate, since vLLM also holds requests back when memory is short."""
        return max(0, self._open - self._max_running)

    def failure(self) -> str | None:
        """As `Engine`."""
        return "vLLM's engine process has died" if self._llm.errored else None

    async def stop(self) -> None:
        """As `Engine`."""
        self._llm.shutdown()

    def _logprobs_of(self, output: Any, sampling: ResponseSampling) -> list[float]:
        if sampling.temperature == 0:  # vLLM says how likely the tokens are, not that nothing else could have come
            return [0.0] * len(output.token_ids)
        return [float(row[token].logprob) for row, token in zip(output.logprobs, output.token_ids, strict=True)]

    def _vllm_params(self, sampling: ResponseSampling) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        try:
            return SamplingParams(
                n=sampling.samples if sampling.temperature else 1,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                min_p=_min_p(sampling),
                seed=sampling.seed,
                stop_token_ids=sorted(self._stop_ids),
                detokenize=False,
                logprobs=0 if sampling.logprobs else None,  # 0: of the token itself, and of no other
                output_kind=RequestOutputKind.DELTA,
            )
        except VLLMClientError as error:
            raise RefusedError(str(error)) from error


def _min_p(sampling: ResponseSampling) -> float:
    """vLLM's own: a share of the likeliest token after temperature."""
    return sampling.min_p ** (1.0 / sampling.temperature) if sampling.min_p and sampling.temperature else 0.0


def load_vllm(settings: ServerSettings) -> ServedModel:
    """Starts vLLM with a policy. `IPPO_VLLM_ARGS`, JSON, overrides any of its engine's arguments.

    Raises:
        BadSpecError: vLLM is not installed, or the variable is wrong.
        BadDataError: as `loading.load`.
    """
    _check_memory(settings.policy)
    from ippo_trainer.models.load import load_tokenizer
    from ippo_trainer.models.merging import whole
    from ippo_trainer.text.render import Renderer

    remedy = "Use an image with vLLM, or spec.serve.engine: Transformers."
    with vllm_start.starting(remedy):
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

    renderer = Renderer.load(settings.policy, load_tokenizer(settings.policy))
    positions = _positions(settings.policy)
    room = response_room(positions, renderer.max_prompt_tokens, settings.max_new_tokens)
    length = renderer.max_prompt_tokens + room
    own: dict[str, Any] = {"served_model_name": [settings.digest, settings.name], "enable_log_requests": False}
    own["logprobs_mode"] = "processed_logprobs"  # after min_p, temperature and top_p, as they were drawn
    # Merged: then every architecture, rank and setting of vLLM goes.
    with vllm_start.starting(remedy), whole(settings.policy) as model:
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**vllm_start.arguments(model, length, own)))
    running = llm.vllm_config.scheduler_config.max_num_seqs
    return ServedModel(renderer, VllmEngine(llm, room, settings.max_waiting, running, renderer.stop_ids))


def _check_memory(policy: Path) -> None:
    import torch

    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        total = sum(torch.cuda.get_device_properties(number).total_memory for number in devices)
        memory.check_fits_devices(policy, False, total)
    else:
        memory.check_fits(policy, False, memory.memory_limit(), CPU_PROCESS_BYTES + CPU_CACHE_BYTES)


def _positions(directory: Path) -> int | None:
    from transformers import AutoConfig

    from ippo_trainer.models.attention import limits

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadDataError(f"the model in {directory} has no usable config.json: {error}", "Fetch it again.") from error
    return min((limit.tokens for limit in limits(config)), default=None)
