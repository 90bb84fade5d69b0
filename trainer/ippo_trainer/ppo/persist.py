"""Trainable state as safetensors and JSON; nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_module(path: Path, module: nn.Module) -> None:
    """Writes a module's parameters, tied ones once."""
    save_file({name: value.detach().contiguous() for name, value in module.named_parameters()}, path)


def load_module(path: Path, module: nn.Module) -> None:
    """Puts back what `save_module` wrote."""
    device = next(module.parameters()).device
    _copy(load_file(path, device=str(device)), dict(module.named_parameters()))


def save_optimiser(path: Path, optimiser: torch.optim.Optimizer) -> None:
    """Writes an Adam's moments and step counts, by the number of the parameter."""
    tensors = {
        f"{number}.{key}": optimiser.state[parameter][key].contiguous()
        for number, parameter in enumerate(_parameters(optimiser))
        for key in _MOMENTS
        if key in optimiser.state[parameter]
    }
    save_file(tensors, path)


def load_optimiser(path: Path, optimiser: torch.optim.Optimizer) -> None:
    """Puts back what `save_optimiser` wrote."""
    parameters = _parameters(optimiser)
    tensors = load_file(path, device=str(parameters[0].device))
    for number, parameter in enumerate(parameters):
        moments = {key: tensors[f"{number}.{key}"] for key in _MOMENTS if f"{number}.{key}" in tensors}
        if moments:
            optimiser.state[parameter] = moments


def save_facts(path: Path, facts: dict[str, Any]) -> None:
    """Writes JSON; floats come back exactly."""
    path.write_text(json.dumps(facts, allow_nan=False, sort_keys=True), "utf-8")


def load_facts(path: Path) -> dict[str, Any]:
    """Reads what `save_facts` wrote."""
    facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return facts


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _copy(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in into.items():
            parameter.copy_(tensors[name])
