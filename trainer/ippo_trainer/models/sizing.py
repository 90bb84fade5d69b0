"""How much memory each stage will take, from the config of its base alone: nothing is loaded, nothing downloaded.

What is held of the models is what `needs` refuses a stage by. On top come activations, by the same budget that a
stage's forwards keep to, keys and values of what is sampled, and the process itself.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.contract.stages import COLLECT, EVALUATE, FIT_Q, IMPROVE, WARM_START
from ippo_trainer.models import adapters, needs
from ippo_trainer.models.architecture import check_config, check_kind
from ippo_trainer.models.budget import (
    FIT_TOKENS,
    IMPROVE_TOKENS,
    WARM_START_BYTES,
    Budget,
    kept_bytes,
    on_cpu,
    on_gpu,
    warm_start_token_bytes,
    warm_start_tokens,
)
from ippo_trainer.models.cache import MEMORY_BYTES
from ippo_trainer.models.engine_memory import engines_of, memory_of
from ippo_trainer.models.files import read_config
from ippo_trainer.models.last_layer import fit_bytes
from ippo_trainer.models.load import tiny_config
from ippo_trainer.models.memory import RUNTIME_BYTES
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.precision import BFLOAT16, FLOAT32
from ippo_trainer.models.sampling import CPU_BATCH_BYTES, DEVICE_SHARE, token_bytes
from ippo_trainer.models.scoring import logit_bytes, table_bytes
from ippo_trainer.text.tokenizer import MAX_VOCABULARY

PROBES = 64
"""Suggestions that a warm start samples in the end."""
TURNS = 6
"""Of a conversation, where nobody says."""


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
    solver: int
    """Of the least squares of Q's last layer, in main memory."""
    engine: int
    """Of vLLM, where it samples: weights, keys and values, processes."""
    loading: int
    """Of one model in fp32, as it is loaded before it gets another type."""
    on_gpu: bool

    @property
    def together(self) -> int:
        """The peak. Activations, caches and least squares are not there at the same time, but on a CPU a process keeps
        much of what it has freed (glibc's malloc), where torch uses it again on a GPU."""
        parts = (self.activations, self.cache, self.solver)
        most = max(parts) if self.on_gpu else sum(parts)
        return max(self.weights + self.trained + most, self.loading) + self.process + self.engine


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


def stage_memory(spec: StageSpec, size: BaseSize, gpu: int | None, turns: float = TURNS) -> StageMemory:
    """What a stage takes.

    Args:
        spec: of the stage; its inputs count by their names.
        size: of the base.
        gpu: bytes of the GPU's memory; None for a CPU.
        turns: of a conversation.
    """
    weights, vllm = size.weights(spec), spec.samples_with_vllm()
    models, dtype = _held(spec, size, gpu), dtype_for(spec, gpu)
    kept = (
        0
        if gpu is not None
        else sum(int(count.kept * weights[name]) for name, count in needs.copies(spec).items() if name != needs.BASE)
    )
    process = RUNTIME_BYTES
    trains = models.trained > 0
    activations = _activations(spec, size, gpu) if trains else 0
    per_token = token_bytes(size.config, dtype)
    longest = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens
    cache = 0 if spec.stage == FIT_Q or vllm else int(_rows(spec, turns) * longest * per_token)
    remembered = _remembered(spec, cache)
    if _samples_in_parts(spec):
        room = gpu and max(0, gpu - models.read - models.trained - process)
        cache = min(cache, CPU_BATCH_BYTES if room is None else int(DEVICE_SHARE * room))
    solver = _solver(spec, size.config.hidden_size) if gpu is None else 0
    engine = engines_of(spec) * memory_of(spec, size.config, size.whole, dtype, gpu).together if vllm else 0
    loading = 4 * size.whole if any(count.own or count.read for count in needs.copies(spec).values()) else 0
    return StageMemory(
        models.read,
        models.trained + kept,
        activations,
        cache + remembered,
        process,
        solver,
        engine,
        loading,
        gpu is not None,
    )


def dtype_for(spec: StageSpec, gpu: int | None) -> torch.dtype:
    """Of a stage's weights and activations; a GPU is taken for one with bfloat16."""
    single = gpu is None or spec.policy.precision == "Float32" or spec.stage == WARM_START
    return (FLOAT32 if single else BFLOAT16).dtype


def budget_for(spec: StageSpec, size: BaseSize, gpu: int | None) -> Budget:
    """The largest forward of a stage that trains; arguments as in `stage_memory`."""
    longest = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens
    if spec.stage == WARM_START:
        batch = spec.warm_start.value("batch_size") if spec.warm_start is not None else 1
        # A forward has whole rows, of one batch at most; a row beyond the budget stands alone.
        allowed = warm_start_tokens(size.config)
        return Budget(min(batch * longest, max(longest, allowed)), recompute=longest > allowed)
    if gpu is None:
        budget = on_cpu(size.config, FIT_TOKENS if spec.stage == FIT_Q else IMPROVE_TOKENS)
    else:
        models = _held(spec, size, gpu)
        budget = on_gpu(size.config, dtype_for(spec, gpu), gpu, models.read + models.trained)
    if spec.stage != FIT_Q:
        return budget
    batch = (spec.fit_q or params.FitQ()).batch_size  # of whole conversations, without branches
    return replace(budget, tokens=min(budget.tokens, batch * longest))


def _held(spec: StageSpec, size: BaseSize, gpu: int | None) -> needs.Held:
    return needs.held(spec, size.weights(spec), False, True, dtype_for(spec, gpu) is BFLOAT16.dtype)


def _activations(spec: StageSpec, size: BaseSize, gpu: int | None) -> int:
    budget = budget_for(spec, size, gpu)
    logits = budget.tokens * size.config.vocab_size
    if spec.stage == WARM_START:
        kept = min(WARM_START_BYTES, budget.tokens * warm_start_token_bytes(size.config))
        return kept + table_bytes(logits)
    return kept_bytes(size.config, dtype_for(spec, gpu), budget) + logit_bytes(gpu is not None, logits)


def _solver(spec: StageSpec, width: int) -> int:
    """Bytes of the least squares of fit-q; 0 where the trained head stays."""
    fit_q = (spec.fit_q or params.FitQ()).resolved()
    if spec.stage != FIT_Q or fit_q.last_layer == "Gradient":
        return 0
    return fit_bytes(width, fit_q.ranks_of(width), fit_q.least_squares()[1])


def _remembered(spec: StageSpec, conversations: int) -> int:
    """Bytes of earlier turns' keys and values, which take up to `conversations` bytes: those of the turn before are
    there until those of this one are. Who explores remembers its own."""
    if spec.stage not in (COLLECT, EVALUATE) or not conversations or spec.environment is None:
        return 0
    explores = spec.stage == COLLECT and (spec.collect or params.Collect()).explored(spec.iteration) > 0
    return min(conversations, MEMORY_BYTES) * (3 if explores else 2)


def _samples_in_parts(spec: StageSpec) -> bool:
    """Whether a stage's batches of keys and values are bounded, as our own sampler's are."""
    return spec.stage != IMPROVE or ALGORITHMS[(spec.improve or params.Improve()).chosen(spec.collect)].own_loop


def _rows(spec: StageSpec, turns: float) -> float:
    """Responses that a stage samples at once, at most."""
    if spec.stage == IMPROVE:
        improve = spec.improve or params.Improve()
        return improve.batch_size * turns * improve.samples_per_state
    if spec.stage == WARM_START:
        return PROBES if spec.warm_start is not None else 0
    collect = spec.collect or params.Collect()
    own = -(-collect.conversations // collect.parallelism)
    held = own if spec.stage == COLLECT else (spec.evaluate or params.Evaluate()).conversations
    return min(collect.batch_size, held)


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
