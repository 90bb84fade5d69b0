"""How much memory each stage will take, from the config of its base alone: nothing is loaded, nothing downloaded.

What is held of the models is what `needs` refuses a stage by. On top come activations, by the same budget that a
stage's forwards keep to, keys and values of what is sampled, and the process itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.contract.stages import FIT_Q, IMPROVE, WARM_START
from ippo_trainer.models import adapters, needs
from ippo_trainer.models.architecture import check_config, check_kind
from ippo_trainer.models.budget import (
    FIT_TOKENS,
    IMPROVE_TOKENS,
    WARM_START_BYTES,
    kept_bytes,
    on_cpu,
    on_gpu,
    warm_start_token_bytes,
    warm_start_tokens,
)
from ippo_trainer.models.engine_memory import engines_of, memory_of
from ippo_trainer.models.files import read_config
from ippo_trainer.models.load import tiny_config
from ippo_trainer.models.memory import RUNTIME_BYTES
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.precision import BFLOAT16, FLOAT32
from ippo_trainer.models.sampling import CPU_BATCH_BYTES, DEVICE_SHARE, token_bytes
from ippo_trainer.models.scoring import logit_bytes
from ippo_trainer.text.tokenizer import MAX_VOCABULARY


@dataclass(frozen=True, slots=True)
class BaseSize:
    """Numbers of parameters of a base."""

    config: Any
    whole: int
    """Of the causal LM; tied ones count once."""
    head: int
    """Of its head, if that is not tied: what Q has not."""
    adapter: int
    """Of one adapter; 0 without."""

    def weights(self, spec: StageSpec) -> dict[str, int]:
        """fp32 bytes of the models that a stage holds, by their names in `needs.copies`."""
        own = self.adapter or self.whole
        sizes = dict.fromkeys(needs.copies(spec), 4 * own) | {needs.BASE: 4 * self.whole}
        q = own if self.adapter else self.whole - self.head
        return {name: 4 * q if name in ("q", "previousQ") else size for name, size in sizes.items()}


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes that a stage will take at its peak, by kind."""

    weights: int
    """That nothing changes: of a base, of models that are only read, copies."""
    trained: int
    """Weights, gradients and moments of what is trained, and snapshots of it that are kept beside them."""
    activations: int
    """Of the largest forward and backward, logits included."""
    cache: int
    """Keys and values of what is sampled."""
    process: int
    """Libraries."""
    engine: int
    """Of vLLM, where it samples: weights, keys and values, processes."""
    loading: int
    """Of one model in fp32, as it is loaded before it gets another type."""

    @property
    def together(self) -> int:
        """The peak: activations and caches are not there at the same time."""
        return (
            max(self.weights + self.trained + max(self.activations, self.cache), self.loading)
            + self.process
            + self.engine
        )


def size_of(base: str, config: Path | None, adapter: params.Adapter | None) -> BaseSize:
    """The size of a base.

    Args:
        base: `policy.base`.
        config: folder of a `config.json` to read in place of the base's own, of a base that is elsewhere.
        adapter: the user's section.

    Raises:
        BadDataError: there is no config, or one of a model that cannot be a policy.
        BadSpecError: an adapter that does not fit, or no tiny model.
    """
    described = tiny_config(base, MAX_VOCABULARY) if base.startswith("tiny:") else _read(base, config)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(described)
    whole = sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    own = 0 if adapter is None else adapters.count_parameters(model, adapter)
    trunk = sum(parameter.numel() for parameter in decoder(model).parameters())
    return BaseSize(described, whole, 0 if tied else whole - trunk, own)


def stage_memory(spec: StageSpec, size: BaseSize, gpu: int | None) -> StageMemory:
    """What a stage takes.

    Args:
        spec: of the stage; its inputs count by their names.
        size: of the base.
        gpu: bytes of the GPU's memory; None for a CPU.
    """
    several, weights, vllm = False, size.weights(spec), spec.samples_with_vllm()
    single = spec.policy.precision == "Float32" or spec.stage == WARM_START
    precision = FLOAT32 if gpu is None or single else BFLOAT16
    models = needs.held(spec, weights, several, True, precision is BFLOAT16)
    kept = (
        0
        if gpu is not None
        else sum(int(count.kept * weights[name]) for name, count in needs.copies(spec).items() if name != needs.BASE)
    )
    process = RUNTIME_BYTES
    trains = models.trained > 0
    activations = _activations(spec, size, gpu, models, precision.dtype) if trains else 0
    per_token = token_bytes(size.config, precision.dtype)
    longest = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens
    cache = 0 if spec.stage == FIT_Q or vllm else _rows(spec) * longest * per_token
    if _samples_in_parts(spec):
        room = gpu and max(0, gpu - models.read - models.trained - process)
        cache = min(cache, CPU_BATCH_BYTES if room is None else int(DEVICE_SHARE * room))
    engine = engines_of(spec) * memory_of(spec, size.config, size.whole, precision.dtype, gpu).together if vllm else 0
    loading = 4 * size.whole if any(count.own or count.read for count in needs.copies(spec).values()) else 0
    return StageMemory(models.read, models.trained + kept, activations, cache, process, engine, loading)


def _activations(spec: StageSpec, size: BaseSize, gpu: int | None, models: needs.Held, dtype: torch.dtype) -> int:
    if spec.stage == WARM_START:
        longest, batch = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens, 1
        if spec.warm_start is not None:
            batch = spec.warm_start.value("batch_size")
        # A forward has whole rows, of one batch at most; a row beyond the budget stands alone.
        tokens = min(batch * longest, max(longest, warm_start_tokens(size.config)))
        kept = min(WARM_START_BYTES, tokens * warm_start_token_bytes(size.config))
        return kept + logit_bytes(False, tokens * size.config.vocab_size)
    if gpu is None:
        budget = on_cpu(size.config, FIT_TOKENS if spec.stage == FIT_Q else IMPROVE_TOKENS)
    else:
        budget = on_gpu(size.config, dtype, gpu, models.read + models.trained)
    return kept_bytes(size.config, dtype, budget) + logit_bytes(gpu is not None)


def _samples_in_parts(spec: StageSpec) -> bool:
    """Whether a stage's batches of keys and values are bounded, as our own sampler's are."""
    return spec.stage != IMPROVE or ALGORITHMS[(spec.improve or params.Improve()).chosen(spec.collect)].own_loop


def _rows(spec: StageSpec) -> int:
    """Responses that a stage samples at once, at most."""
    if spec.stage == IMPROVE:
        section = spec.improve or params.Improve()
        return section.batch_size * section.samples_per_state
    if spec.stage == WARM_START:
        return 0
    return (spec.collect or params.Collect()).batch_size


def _read(base: str, place: Path | None) -> Any:
    directory = place or Path(base.removeprefix("file://"))
    if place is None and not base.startswith("file://"):
        raise BadDataError(
            f"policy.base {base} is not on this machine", "Give the folder of its config.json with --config."
        )
    if not directory.is_dir():
        raise BadDataError(
            f"policy.base: there is no folder {directory}", "Give the folder of a config.json with --config."
        )
    content = read_config(directory)
    check_kind(content.get("model_type"), directory.name)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadDataError(f"config.json in {directory} cannot be used: {error}", "Fetch it again.") from error
    check_config(config, directory.name)
    return config
