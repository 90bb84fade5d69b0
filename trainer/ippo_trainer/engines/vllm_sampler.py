"""vLLM as a sampler: continuous batches of all prompts, and a cache of the prefixes that they share.

The engine is a process of its own. Its random numbers are its own, too: equal keys give equal responses by the same
sampler, not those of the other one. What is sampled from, and with which log-probabilities, is the same for both.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadSpecError, TryAgainError
from ippo_trainer.contract.params import COLDEST, HOTTEST
from ippo_trainer.contract.variables import BLAS_THREADS
from ippo_trainer.engines import vllm_start, vllm_worker
from ippo_trainer.models import adapters
from ippo_trainer.models.merging import whole
from ippo_trainer.models.sampling import Sampled, Sampling

PART_BYTES = 1 << 30
"""Of weights that are handed over in one file."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to start vLLM.

    Args:
        length: tokens of a prompt with its response, at most.
        rows: responses that are sampled at once, at most.
        dtype: of weights, activations and caches, "float32" or "bfloat16".
        cache_bytes: of keys and values.
        share: of a GPU's memory that vLLM may take, weights and caches together; None on a CPU.
        threads: of a CPU.
    """

    length: int
    rows: int
    dtype: str
    cache_bytes: int
    share: float | None = None
    threads: int = 1


class VllmSampler:
    """A `PolicySampler`.

    Args:
        llm: vLLM's LLM, from `start`.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def take(self, policy: Any) -> None:
        """As `PolicySampler`. Weights go from memory to memory; of adapters, merged into a copy of what they change."""
        with _in_memory(adapters.merged_weights(policy)) as place, _alive():
            self._llm.collective_rpc("read_weights", args=(str(place),))
        self.begin()

    def begin(self) -> None:
        """As `PolicySampler`."""
        with _alive():
            self._llm.reset_prefix_cache()

    def twin(self) -> "VllmSampler":
        """As `PolicySampler`. What vLLM remembers, it finds by the tokens."""
        return self

    def sample(
        self,
        prompts: Sequence[list[int]],
        keys: Sequence[int],
        sampling: Sampling,
        slots: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """As `PolicySampler`."""
        if len(keys) != len(prompts):
            raise ValueError("keys need one entry per prompt")
        if not prompts:
            return []
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with _alive():
            outputs = self._llm.generate(asked, [_params(sampling, key) for key in keys], use_tqdm=False)
        return [[_sampled(response) for response in output.outputs] for output in outputs]

    def close(self) -> None:
        """Ends vLLM's processes."""
        self._llm.llm_engine.engine_core.shutdown()


def check_temperature(field: str, temperature: float) -> None:
    """Raises BadSpecError if vLLM cannot sample at the temperature that a field of the manifest says."""
    if not COLDEST <= temperature <= HOTTEST:
        raise BadSpecError(
            f"{field} is {temperature:g}, and vLLM samples at {COLDEST} to {HOTTEST:g}",
            f"Set {field} within these bounds, or the sampler to Transformers.",
        )


@contextmanager
def running(policy: Path, settings: EngineSettings, remedy: str) -> Iterator[VllmSampler]:
    """Starts vLLM with a policy, and ends it.

    Args:
        policy: its directory; an adapter is merged into a temporary copy of its base.
        settings: see there.
        remedy: where vLLM is not installed.

    Raises:
        BadSpecError, BadDataError: as `vllm_start.starting`.
    """
    variables = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        # Bound to cores, the threads of two shards on one machine would share those of the first.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        BLAS_THREADS: str(settings.threads),
    }
    with vllm_start.starting(remedy, variables), whole(policy) as model:
        from vllm import LLM

        sampler = VllmSampler(LLM(**vllm_start.arguments(model, settings.length, _own(settings))))
    try:
        yield sampler
    finally:
        sampler.close()


def _own(settings: EngineSettings) -> dict[str, Any]:
    own = {
        "dtype": settings.dtype,
        "max_num_seqs": settings.rows,
        "kv_cache_memory_bytes": settings.cache_bytes,
        "enable_prefix_caching": True,
        # Those of the distribution that is sampled from: after temperature and min-p.
        "logprobs_mode": "processed_logprobs",
        # Prompts are tokens, and what ends a response is said with every request.
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": vllm_worker.NAME,
        "disable_log_stats": True,
    }
    return own if settings.share is None else own | {"gpu_memory_utilization": settings.share}


def _params(sampling: Sampling, key: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        n=sampling.samples,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        # Ours is a share of the likeliest token's probability before temperature, vLLM's after it.
        min_p=sampling.min_p ** (1.0 / sampling.temperature) if sampling.min_p else 0.0,
        seed=key >> 1,  # vLLM adds the number of the sample
        stop_token_ids=sorted(sampling.stop_ids),
        ignore_eos=True,  # stop_token_ids has all that ends a suggestion, and nothing else does
        detokenize=False,
        logprobs=0,  # of the token that was drawn
        flat_logprobs=True,
    )


def _sampled(response: Any) -> Sampled:
    if response.finish_reason not in ("stop", "length"):
        raise TryAgainError(f"vLLM ended a response with {response.finish_reason}", "The next attempt resumes.")
    return Sampled(list(response.token_ids), list(response.logprobs.logprobs), response.finish_reason == "stop")


@contextmanager
def _in_memory(weights: Iterator[tuple[str, Any]]) -> Iterator[Path]:
    """A folder whose files, of weights, are memory of this process; vLLM's processes map it."""
    from safetensors.torch import save

    with ExitStack() as memory:
        place = Path(memory.enter_context(tempfile.TemporaryDirectory(prefix="ippo-weights-")))
        for number, part in enumerate(_parts(weights)):
            descriptor = os.memfd_create("ippo-weights")
            file = memory.enter_context(os.fdopen(descriptor, "wb"))
            file.write(save(part))
            file.flush()
            (place / f"model-{number:05d}.safetensors").symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield place


def _parts(weights: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """The weights in parts of about `PART_BYTES`, so that hardly more than one copy of all is there."""
    part: dict[str, Any] = {}
    size = 0
    for name, weight in weights:
        if part and size + weight.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = weight.contiguous()
        size += weight.nbytes
    yield part


@contextmanager
def _alive() -> Iterator[None]:
    """An engine that has died is the world's fault, not the run's."""
    from vllm.exceptions import VLLMServerError

    try:
        yield
    except VLLMServerError as error:
        raise TryAgainError(
            f"vLLM's engine died: {' '.join(str(error).split())}", "Its log above says more; the next attempt resumes."
        ) from error
