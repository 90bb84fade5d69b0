"""What a stage certainly holds of its models at once, and whether there is memory for it, seen before the download.

Of adapters it is the same, and their base once. vLLM is counted where a stage is told to sample with it.

What is trained is there four times: weights, gradients and the two moments of Adam, all in fp32. In bfloat16 on a GPU
it is there three times: the weights are fp32 in two halves, gradients are small, and copies wait in main memory.
Weights that are only read stay mapped from their files on a CPU: the kernel drops some and reads them again, for every
token if it must. So a stage that trains nothing is refused there only where one model alone is larger than the memory.
On a GPU all weights count. Too small a need is better than too large a one: a stage that is refused waits for somebody
to mend it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.params import Collect, FitQ, Improve
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.contract.stages import BY_NAME, COLLECT, FIT_Q, IMPROVE, WARM_START
from ippo_trainer.models import memory

KINDS = ("policy", "q")
"""Of the artifacts that are models."""
BASE = "base"
"""Stands for `policy.base`, and for the base of adapters, beside the names of inputs."""
ADAPTER = "adapter"
"""Of the warm start, which makes it."""
TRAINED = 4
HALVED = 3
"""Of what is trained in bfloat16."""
MOMENTS = 2
"""Of one more optimiser."""
SNAPSHOTS = 2
"""Of the policy: pi_i, and the newest one within the KL budget or the best one on held-out states."""


class Copies(NamedTuple):
    """How often a stage holds the weights of a model at once, at least."""

    own: float
    """In memory of its own: trained, or copied."""
    read: float = 1
    """As they were loaded, and only read."""
    kept: float = 0
    """In main memory, on whatever device the model is: snapshots, and a base that adapters are trained on."""


_HELD_BASE = Copies(0, 1, kept=1)
"""What is trained goes through all of the base, again and again: it cannot stay on disk."""


def copies(spec: StageSpec, several: bool = False) -> dict[str, Copies]:
    """What a stage holds, by name of the input: the models that it loads, and what it makes of them.

    Args:
        spec: of the stage.
        several: processes divide an `improve`.
    """
    if spec.stage == WARM_START:
        return _of_warm_start(spec)
    held = _of_inputs(spec, several)
    if spec.policy.adapter is None:
        return held
    trains = any(count.own for count in held.values())
    return {BASE: _HELD_BASE if trains else Copies(0, max(count.read for count in held.values())), **held}


def _of_warm_start(spec: StageSpec) -> dict[str, Copies]:
    if spec.warm_start is None:
        return {BASE: Copies(0)}
    if spec.policy.kind != "adapters":  # a tiny base is made of all its weights, whatever is trained after it
        return {BASE: Copies(TRAINED, 0)}
    return {BASE: _HELD_BASE, ADAPTER: Copies(TRAINED, 0)}


def _of_inputs(spec: StageSpec, several: bool) -> dict[str, Copies]:
    """Of models that are whole, or of adapters without their base."""
    if spec.stage == COLLECT:
        names = ["policy", "explorer"] if explores(spec) else ["policy"]
        return dict.fromkeys(names, Copies(0, 0 if spec.samples_with_vllm() else 1))  # then only vLLM has them
    if spec.stage == FIT_Q:
        return _of_fit_q(spec, spec.fit_q or FitQ())
    if spec.stage == IMPROVE:
        return _of_improve(spec, several)
    scorer = ("q",) if spec.environment is None else ()  # logged states are scored instead of customers met
    return dict.fromkeys(("candidate", "policy", *scorer), Copies(0))


def explores(spec: StageSpec) -> bool:
    """Whether a collect asks an explorer that is not the policy itself."""
    settings = spec.collect or Collect()
    return _explorer_is_apart(spec) and settings.explored(spec.iteration) > 0


def _explorer_is_apart(spec: StageSpec) -> bool:
    explorer = spec.inputs.get("explorer")
    return explorer is not None and explorer.digest != spec.inputs["policy"].digest


def _of_improve(spec: StageSpec, several: bool) -> dict[str, Copies]:
    """Several divide what is trained, but only once there are both copies: what the policy is compared with, and the
    critic, whose trunk is Q's. Alone, the critic's gradients are gone while the policy has some.
    """
    algorithm = ALGORITHMS[(spec.improve or Improve()).chosen(spec.collect)]
    moments = MOMENTS if algorithm.twice else 0
    policy = Copies(1) if several else Copies(TRAINED + moments + 1, 0, kept=SNAPSHOTS)
    critic = Copies(1) if several else Copies(TRAINED - 1)
    held = {"policy": policy, "q": critic if algorithm.critic else Copies(0)}
    return held | ({"explorer": Copies(0)} if algorithm.explorer and _explorer_is_apart(spec) else {})


def _of_fit_q(spec: StageSpec, settings: FitQ) -> dict[str, Copies]:
    """Q in training and its best weights so far, beside the policy."""
    if settings.init_from == "PreviousQ" and "previousQ" in spec.inputs:
        return {"policy": Copies(0), "previousQ": Copies(TRAINED + 1, 0)}
    # A Q without the auxiliary loss has not the policy's head. That is as large as the embeddings, which it has.
    trained = TRAINED if float(settings.lm_loss_weight) > 0 else TRAINED / 2
    return {"policy": Copies(trained + 1 / 2)}


class Held(NamedTuple):
    """Bytes of memory that a stage's models take, at least, by what they are there for."""

    read: int
    """As they were loaded, and copies that nothing changes; the base of adapters."""
    trained: int
    """Weights, gradients and moments."""
    kept: int
    """In main memory: snapshots."""


def held(spec: StageSpec, weights: Mapping[str, int], several: bool, gpu: bool, halved: bool = False) -> Held:
    """What a stage holds of its models; arguments as in `copies` and `check`.

    Args:
        spec, several: as in `copies`.
        weights: as in `check`.
        gpu: on which all weights count; on a CPU those that are only read stay in their files.
        halved: whether models are bfloat16 there.
    """
    counts = {name: count for name, count in copies(spec, several).items() if name in weights}
    own = sum((min(count.own, HALVED) if halved else count.own) * weights[name] for name, count in counts.items())
    read = sum(count.read * weights[name] for name, count in counts.items()) / (2 if halved else 1)
    kept = sum(count.kept * weights[name] for name, count in counts.items())
    if gpu:
        return Held(int(read), int(own), 0)
    # What is only read is mapped from its files, unless nothing is trained: one model has to fit then.
    largest = max((weights[name] for name, count in counts.items() if count.read), default=0)
    return Held(0 if own or kept else largest, int(own), int(kept))


def needed(spec: StageSpec, weights: Mapping[str, int], several: bool, gpu: bool) -> int:
    """Bytes of memory that a stage's models take, at least; arguments as in `copies` and `check`."""
    return sum(held(spec, weights, several, gpu, gpu and _halved(spec, several)))


def check(spec: StageSpec, weights: Mapping[str, int], config: Mapping[str, Any] | None = None) -> None:
    """Raises BadDataError if the stage needs more memory for its models than the container, machine or GPU has.

    Args:
        spec: of the stage.
        weights: bytes of the weights of the models in `copies`, by name.
        config: content of the policy's config.json, where the stage is told to sample with vLLM.
    """
    import torch  # whoever asks for a model has it loaded; the rest of the runtime does without

    gpu = _on_gpu(spec)
    need = needed(spec, weights, torch.distributed.is_torchelastic_launched(), gpu)
    who = f"no room for {_named(spec, weights)}: {spec.stage} needs at least"
    pods = f"spec.pods.{BY_NAME[spec.stage].field}"
    if gpu:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        remedy = f"Give {pods} a larger GPU, or choose a smaller policy.base in a new run."
        memory.check_room(who, need + _engines(spec, weights, config, total), "this GPU has", total, remedy)
        return
    engines = _engines(spec, weights, config, None)
    if need or engines:
        need += engines + (memory.held() if _trains(spec) else 0)
        remedy = (
            f"Raise {pods}.resources.limits.memory; where nothing limits it, take a machine with more memory or a "
            "smaller policy.base."
        )
        memory.check_room(who, need, "this container or machine has", memory.memory_limit(), remedy)


def _engines(spec: StageSpec, weights: Mapping[str, int], config: Mapping[str, Any] | None, gpu: int | None) -> int:
    """Bytes of the vLLMs of a stage; arguments as in `check`, and bytes of the GPU's memory, None on a CPU."""
    from transformers import CONFIG_MAPPING, AutoConfig

    from ippo_trainer.models.engine_memory import engines_of, memory_of
    from ippo_trainer.models.precision import precision_of

    if config is None or config.get("model_type") not in CONFIG_MAPPING:  # whoever loads it says so
        return 0
    import torch

    dtype = precision_of(spec.policy.precision, torch.device("cpu" if gpu is None else "cuda")).dtype
    parameters = weights.get(BASE, weights["policy"]) // torch.float32.itemsize
    return engines_of(spec) * memory_of(spec, AutoConfig.for_model(**config), parameters, dtype, gpu).together


def _halved(spec: StageSpec, several: bool) -> bool:
    """Whether a stage's models are bfloat16 on a GPU; the warm start's and those of several processes are not."""
    import torch

    from ippo_trainer.models.precision import FLOAT32, precision_of

    return spec.stage != WARM_START and precision_of(spec.policy.precision, torch.device("cuda"), several) != FLOAT32


def _trains(spec: StageSpec) -> bool:
    return any(count.own for count in copies(spec).values())


def _on_gpu(spec: StageSpec) -> bool:
    """Whether the models go to a GPU. A base that is not trained does not."""
    import torch

    return spec.device != "cpu" and torch.cuda.is_available() and (spec.stage != WARM_START or _trains(spec))


def _named(spec: StageSpec, weights: Mapping[str, int]) -> str:
    return " and ".join(f"{_where(spec, name)} ({memory.mebibytes(size)})" for name, size in weights.items())


def _where(spec: StageSpec, name: str) -> str:
    return f"policy.base {spec.policy.base}" if name == BASE else f"{name} {spec.inputs[name].key}"
