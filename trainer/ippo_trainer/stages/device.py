"""Where a stage computes."""

import torch

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.models.precision import Precision, precision_of


def precision_for(spec: StageSpec, device: torch.device, several: bool = False) -> Precision:
    """How a stage's models compute on a device, by one or several processes; raises as `precision_of`."""
    return precision_of(spec.policy.precision, device, several)


def device_of(spec: StageSpec) -> torch.device:
    """The device that a stage's spec asks for; `auto` takes a GPU where there is one.

    Raises:
        BadSpecError: it asks for CUDA where there is none. The CPU in its place would take days without a word.
    """
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        raise BadSpecError("device is cuda, but there is no CUDA device here", "Use auto or cpu, or another node.")
    return torch.device("cuda" if available and spec.device != "cpu" else "cpu")
