"""Defaults that depend on the base: what a tiny model made from scratch learns with destroys a pretrained one."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

from ippo_trainer.contract.model import Model
from ippo_trainer.contract.stages import BY_NAME, FIT_Q, IMPROVE, WARM_START

BaseKind = Literal["tiny", "pretrained", "adapters"]
TINY = "tiny:"
"""What names of bases begin with that are made from scratch."""
TINY_NAMES = (
    "tiny:d<width>-l<layers>[-h<heads>] with 1 to 99 layers and heads and a width from 8 to 9999, a multiple of 2*heads"
)
_TINY_NAME = re.compile(rf"{TINY}d(?P<width>[1-9]\d{{0,3}})-l(?P<layers>[1-9]\d?)(-h(?P<heads>[1-9]\d?))?")
_HEAD_WIDTH = 32
"""Of a head where nobody says how many: vLLM's attention kernels start there."""
KINDS: Mapping[BaseKind, str] = {
    "tiny": "a tiny base",
    "pretrained": "a pretrained base, all of whose weights are trained",
    "adapters": "adapters on a pretrained base",
}
"""In words."""


class Default(NamedTuple):
    """Of one field, by the base."""

    tiny: int | str
    pretrained: int | str
    adapters: int | str
    source: str
    """Of the last two."""


WARM_START_PATH, FIT_Q_PATH, IMPROVE_PATH = (BY_NAME[name].field for name in (WARM_START, FIT_Q, IMPROVE))
MPO_PATH = f"{IMPROVE_PATH}.mpo"
_TEN = "adapters ten times as much: Schulman et al., LoRA Without Regret, 2025"
BY_BASE: Mapping[str, Mapping[str, Default]] = {
    WARM_START_PATH: {
        "learning_rate": Default("0.004", "0.00002", "0.0002", "Llama 2, arXiv 2307.09288; QLoRA, arXiv 2305.14314"),
        "epochs": Default(3, 2, 3, "Llama 2; trl's SFTTrainer"),
        "batch_size": Default(64, 64, 16, "Llama 2; QLoRA"),
    },
    FIT_Q_PATH: {
        "learning_rate": Default("0.002", "0.00001", "0.0001", f"Llama 2's reward model; {_TEN}"),
        "epochs": Default(6, 2, 4, "ours; Llama 2's reward model overfits after one"),
    },
    IMPROVE_PATH: {
        "learning_rate": Default("0.0006", "0.000001", "0.00001", f"trl's GRPOTrainer and RLOOTrainer; {_TEN}"),
        "critic_learning_rate": Default("0.002", "0.00001", "0.0001", f"verl's PPO; {_TEN}"),
    },
    MPO_PATH: {
        "learning_rate": Default("0.003", "0.00001", "0.0001", "as fit-q's: a likelihood"),
        "epochs": Default(3, 2, 3, "as the warm start's"),
    },
}
"""By section, and by field of the section's model."""


class TinyShape(NamedTuple):
    """Of a model that is made from scratch."""

    width: int
    layers: int
    heads: int


def tiny_shape(base: str) -> TinyShape | None:
    """By the name of a base, such as `tiny:d64-l2`; None where it is none of `TINY_NAMES`."""
    match = _TINY_NAME.fullmatch(base)
    if match is None:
        return None
    width, layers = int(match["width"]), int(match["layers"])
    heads = int(match["heads"] or max(1, width // _HEAD_WIDTH))
    return TinyShape(width, layers, heads) if width >= 8 and width % (2 * heads) == 0 else None


def kind_of(base: str, adapts: bool) -> BaseKind:
    """Which column counts.

    Args:
        base: `policy.base`.
        adapts: whether there is a `policy.adapter`.
    """
    return "tiny" if base.startswith(TINY) else "adapters" if adapts else "pretrained"


class ByBase(Model):
    """A section with fields whose defaults depend on the base. They are None until they are filled in."""

    PATH: ClassVar[str]
    """Of the section."""

    def value(self, name: str) -> Any:
        """The field, or what stands for it at a tiny base."""
        value = getattr(self, name)
        return BY_BASE[self.PATH][name].tiny if value is None else value

    def absent(self) -> Iterator[str]:
        """The fields that are left out."""
        return (name for name in BY_BASE[self.PATH] if getattr(self, name) is None)

    def filled(self, kind: BaseKind) -> Self:
        """With the defaults of that kind of base where fields are left out."""
        return self.model_copy(update={name: getattr(BY_BASE[self.PATH][name], kind) for name in self.absent()})
