"""Trainable state as safetensors and JSON; nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ippo_trainer.ppo.distributed import ALONE, World, whole

_STEP = "step"
_MOMENTS = (_STEP, "exp_avg", "exp_avg_sq")


def save_module(path: Path, module: nn.Module, world: World = ALONE) -> None:
    """Writes a module's parameters, tied ones once; of several processes the first writes, whatever their number."""
    _write(path, dict(module.named_parameters()), world)


def load_module(path: Path, module: nn.Module, world: World = ALONE) -> None:
    """Puts back what `save_module` wrote; only the first process needs the file."""
    parameters = dict(module.named_parameters())
    tensors = _read(path, next(module.parameters()).device, world)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(world.spread(tensors.get(name), parameter))


def save_optimiser(path: Path, optimiser: torch.optim.Optimizer, world: World = ALONE) -> None:
    """Writes an Adam's moments and step counts, by the number of the parameter."""
    tensors = {
        f"{number}.{key}": optimiser.state[parameter][key]
        for number, parameter in enumerate(_parameters(optimiser))
        for key in _MOMENTS
        if key in optimiser.state[parameter]
    }
    _write(path, tensors, world)


def load_optimiser(path: Path, optimiser: torch.optim.Optimizer, world: World = ALONE) -> None:
    """Puts back what `save_optimiser` wrote."""
    parameters = _parameters(optimiser)
    tensors = _read(path, parameters[0].device, world)
    known = set(world.agreed(list(tensors)))
    for number, parameter in enumerate(parameters):
        moments = {
            key: world.spread(tensors.get(f"{number}.{key}"), None if key == _STEP else parameter)
            for key in _MOMENTS
            if f"{number}.{key}" in known
        }
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


def _write(path: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    kept: dict[str, Tensor] = {}
    for name, value in tensors.items():
        complete = whole(value.detach())
        if world.first:
            kept[name] = complete.contiguous()
    if world.first:
        save_file(kept, path)


def _read(path: Path, device: torch.device, world: World) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path, device=str(device)) if world.first else {}
    return tensors
