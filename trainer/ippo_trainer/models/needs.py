"""What a stage certainly holds of its models at once, and whether there is memory for it, seen before the download.

What is trained is there four times: weights, gradients and the two moments of Adam, all in fp32. Weights that are only
read stay mapped from their files: the kernel drops some and reads them again, for every token if it must. So a stage
that trains nothing is refused only where one model alone is larger than the memory. Too small a need is better than
too large a one: a stage that is refused waits for somebody to mend it.
"""

from collections.abc import Mapping

from ippo_trainer.contract.params import FitQ
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.models import memory

KINDS = ("policy", "q")
"""Of the artifacts that are models."""
BASE = "base"
"""Stands for `policy.base` beside the names of inputs."""
TRAINED = 4


def copies(spec: StageSpec, several: bool = False) -> dict[str, int]:
    """How often a stage holds the weights of its models at once, at least, by name of the input.

    Args:
        spec: of the stage.
        several: processes divide an `improve`.
    """
    if spec.stage == "warm-start":
        return {BASE: TRAINED if spec.warm_start else 1}
    if spec.stage == "fit-q":
        return _of_fit_q(spec, spec.fit_q or FitQ())
    if spec.stage == "improve":
        # Alone: the policy in training with the copy that it is compared with, and the critic, a copy of Q, whose
        # gradients are gone while the policy has some. Several divide them, but only once there are both copies.
        return {"policy": 1, "q": 1} if several else {"policy": TRAINED + 1, "q": TRAINED - 1}
    return {"policy": 1}


def _of_fit_q(spec: StageSpec, settings: FitQ) -> dict[str, int]:
    if settings.init_from == "PreviousQ" and "previousQ" in spec.inputs:
        return {"previousQ": TRAINED}
    # A Q without the auxiliary loss has not the policy's head. That is as large as the embeddings, which it has.
    return {"policy": TRAINED if float(settings.lm_loss_weight) > 0 else TRAINED // 2}


def check(spec: StageSpec, weights: Mapping[str, int]) -> None:
    """Raises BadDataError if the stage needs more memory for its models than the container, machine or GPU has.

    Args:
        spec: of the stage.
        weights: bytes of the weights of the models in `copies`, by name.
    """
    import torch  # whoever asks for a model has it loaded; the rest of the runtime does without

    several = torch.distributed.is_torchelastic_launched()
    need = sum(count * weights.get(name, 0) for name, count in copies(spec, several).items())
    who = f"no room for {_named(spec, weights)}: {spec.stage} needs at least"
    pods = f"spec.pods.{StageSpec.model_fields[spec.stage.replace('-', '_')].alias}"
    if _on_gpu(spec):
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        remedy = f"Give {pods} a larger GPU, or choose a smaller policy.base in a new run."
        memory.check_room(who, need, "this GPU has", total, remedy)
    elif need:
        need += memory.held() if _trains(spec) else 0
        remedy = (
            f"Raise {pods}.resources.limits.memory; where nothing limits it, take a machine with more memory or a "
            "smaller policy.base."
        )
        memory.check_room(who, need, "this container or machine has", memory.memory_limit(), remedy)


def _trains(spec: StageSpec) -> bool:
    return any(count > 1 for count in copies(spec).values())


def _on_gpu(spec: StageSpec) -> bool:
    """Whether the models go to a GPU. A base that is not trained does not."""
    import torch

    return spec.device != "cpu" and torch.cuda.is_available() and (spec.stage != "warm-start" or _trains(spec))


def _named(spec: StageSpec, weights: Mapping[str, int]) -> str:
    return " and ".join(f"{_where(spec, name)} ({memory.mebibytes(size)})" for name, size in weights.items())


def _where(spec: StageSpec, name: str) -> str:
    return f"policy.base {spec.policy.base}" if name == BASE else f"{name} {spec.inputs[name].key}"
