"""The state of a training on disk, as safetensors and JSON; nothing is pickled.

What is trained and Adam's moments come back bit for bit. Parameters may be divided over several ranks: the first rank
writes and reads whole tensors, so any number of ranks goes on from a checkpoint. All ranks call these functions
together.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ippo_trainer.training.distributed import ALONE, Ranks, local, whole

FORMAT = 5
"""Of the files below. A checkpoint of another one, such as release 0.2's, is not read."""
_FACTS = "facts.json"


class StatePart(Protocol):
    """Tensors of a state that are restored in place."""

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """All of them, with names; each may be sharded."""
        ...

    def layout(self) -> Mapping[str, Tensor | None]:
        """For each name a tensor that lies as this one does; None for a whole one."""
        ...

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Puts back what `tensors` gave, laid out as `layout` says."""
        ...


class ResumableTraining(Protocol):
    """What can go on where it was."""

    def parts(self) -> Mapping[str, StatePart]:
        """Its tensors, by name."""
        ...

    def facts(self) -> dict[str, Any]:
        """The rest of its state, as JSON with finite numbers."""
        ...

    def restore(self, facts: dict[str, Any]) -> None:
        """Puts back what `facts` gave; called before the parts are restored."""
        ...


class Weights:
    """The parameters of a module that have gradients, tied ones once, and their lower halves where they have some."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        return self.layout().items()

    def layout(self) -> Mapping[str, Tensor]:
        trained = {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        return trained | {f"{name}.low": value.low for name, value in trained.items() if hasattr(value, "low")}

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        parameters = self.layout()
        with torch.no_grad():
            for name, tensor in tensors:
                parameters[name].copy_(tensor)


class WeightsSnapshot:
    """A copy of a module's `Weights` in main memory, each rank's own part of them; empty at first."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = Weights(module)
        self._copy: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._copy)

    def take(self) -> None:
        """Copies what the module has now."""
        self.set_tensors(self._weights.tensors())

    def put_back(self) -> None:
        """Gives the module what the copy has."""
        self._weights.set_tensors(self.tensors())

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        layout = self.layout()
        for name, part in self._copy.items():
            tensor = torch.empty_like(layout[name], requires_grad=False)
            local(tensor).copy_(part)
            yield name, tensor

    def layout(self) -> Mapping[str, Tensor]:
        return self._weights.layout()

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            part = local(tensor.detach())
            if name not in self._copy:
                # Pinned, so that a GPU copies at its full speed and nobody waits for it.
                self._copy[name] = torch.empty_like(part, device="cpu", pin_memory=part.is_cuda)
            self._copy[name].copy_(part, non_blocking=True)


def save(directory: Path, training: ResumableTraining, ranks: Ranks = ALONE) -> None:
    """Writes everything that `load` needs to go on bit-equal, into an existing directory."""
    for name, part in training.parts().items():
        save_part(_path(directory, name), part, ranks)
    if ranks.first:
        facts = {"format": FORMAT, "facts": training.facts()}
        (directory / _FACTS).write_text(json.dumps(facts, allow_nan=False), "utf-8")


def load(directory: Path, training: ResumableTraining, ranks: Ranks = ALONE) -> bool:
    """Puts back what `save` wrote, into a training that was made with the same arguments; the first rank has the files.

    Returns:
        False where the checkpoint is of another format; then the training is as it was.
    """
    facts = ranks.agreed(_read_facts(directory / _FACTS) if ranks.first else None)
    if facts is None:
        return False
    training.restore(facts)
    for name, part in training.parts().items():
        load_part(_path(directory, name), part, ranks)
    return True


def save_part(path: Path, part: StatePart, ranks: Ranks = ALONE) -> None:
    """Writes the whole tensors of a part; only the first rank writes, and only it holds them all at once."""
    complete: dict[str, Tensor] = {}
    for name, tensor in part.tensors():
        value = whole(tensor.detach())
        if ranks.first:
            complete[name] = value.contiguous()
    if ranks.first:
        save_file(complete, path)


def load_part(path: Path, part: StatePart, ranks: Ranks = ALONE) -> None:
    """Puts back what `save_part` wrote; only the first rank needs the file."""
    layout = part.layout()
    tensors = load_file(path) if ranks.first else {}
    names = ranks.agreed([name for name in layout if name in tensors])
    part.set_tensors((name, ranks.spread(tensors.get(name), layout[name])) for name in names)


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.safetensors"


def _read_facts(path: Path) -> dict[str, Any] | None:
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return content["facts"] if content.get("format") == FORMAT else None
