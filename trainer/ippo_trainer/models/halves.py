"""fp32 weights in two halves: the bfloat16 that a GPU computes with, and the lower 16 bits beside it.

What is trained stays exact to the last bit of fp32, and takes no more memory than fp32 does.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.models.adapters import of_base, own_parameters


def halves(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A fp32 tensor as the nearest bfloat16 (halves go up) and the rest, int16. NaN stays NaN, of one kind."""
    weight = weight.masked_fill(weight.isnan(), math.nan)  # others would be rounded up to 0
    words = weight.contiguous().view(torch.int16).view(*weight.shape, 2)
    low = words[..., 0].clone()
    return (words[..., 1] - (low >> 15)).view(torch.bfloat16), low


def joined(high: Tensor, low: Tensor) -> Tensor:
    """The fp32 tensor that `halves` divided."""
    words = torch.empty((*high.shape, 2), dtype=torch.int16, device=high.device)
    words[..., 0] = low
    torch.add(high.view(torch.int16), low >> 15, out=words[..., 1])
    return words.view(torch.float32).view(high.shape)


def cast(model: Any, dtype: torch.dtype) -> None:
    """Gives a model's fp32 parameters a type, in place; buffers, such as rotary frequencies, keep theirs."""
    halve(model, dtype)
    for parameter in model.parameters():
        if hasattr(parameter, "low"):
            del parameter.low


def halve(model: Any, dtype: torch.dtype) -> None:
    """As `cast`, and keeps the rest in `low` of each parameter, for an optimiser and for `unite`.

    Not of a base's, which no optimiser changes.
    """
    if dtype == torch.bfloat16:
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.data, low = halves(parameter.data)
                if not of_base(parameter):
                    parameter.low = low


def unite(model: Any) -> None:
    """Makes the parameters of a model fp32 again, in place; a base's stay as they are."""
    for parameter in own_parameters(model):
        if parameter.dtype == torch.bfloat16:
            low = getattr(parameter, "low", None)
            parameter.data = parameter.data.float() if low is None else joined(parameter.data, low)
            if low is not None:
                del parameter.low
