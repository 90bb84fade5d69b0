"""How many tokens go through one packed forward, and whether its layers forget what the backward pass needs."""

from dataclasses import dataclass
from typing import Any

import torch

from ippo_trainer.models.adapters import of_base, own_parameters

FIT_TOKENS, IMPROVE_TOKENS = 1 << 14, 1 << 12
"""Of one packed forward on a CPU, at most, of a fit of Q and of an improvement step."""
_CPU_BYTES = 1 << 29
_CPU_FLOATS = 34  # activations kept per token, layer and unit of width (Korthikanti et al., arXiv 2205.05198)
WARM_START_BYTES = 1 << 30
"""Of activations in a forward of the warm start."""
_FEWEST, _SATURATION = 512, 1 << 14
"""Tokens below which a forward wastes its weights, and above which a GPU gets no faster."""
_SHARE = 0.5
"""Of a GPU's memory, up to which activations are kept rather than computed twice."""
_TRAINED_BYTES = {torch.float32: 16, torch.bfloat16: 14}
"""Of a parameter in training: weight, gradient, two moments, and of bfloat16 what fp32 has besides."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one packed forward.

    Args:
        tokens: at most; a longer row stands alone.
        recompute: whether layers keep their inputs only.
    """

    tokens: int
    recompute: bool = False


def on_cpu(config: Any, most: int) -> Budget:
    """So that activations take half a gigabyte: the same on every machine, for results depend on it by rounding.

    Args:
        config: of the model.
        most: tokens, however small the model is.
    """
    per_token = 4 * _CPU_FLOATS * config.hidden_size * config.num_hidden_layers
    return Budget(max(_FEWEST, min(most, _CPU_BYTES // per_token)))


def on_gpu(config: Any, dtype: torch.dtype, total: int, resident: int) -> Budget:
    """What keeps a GPU busy and fits into it.

    Args:
        config: of the model.
        dtype: of activations.
        total: bytes of the GPU's memory.
        resident: bytes that will be there besides, at most: weights, gradients, moments.
    """
    layers, kept = config.num_hidden_layers, layer_bytes(config, dtype)
    room = _SHARE * total - resident
    if room >= _SATURATION // 2 * layers * kept:
        return Budget(min(_SATURATION, int(room / (layers * kept))))
    # With layers computed twice: the inputs of all of them, and one layer's activations with their gradients.
    again = layers * config.hidden_size * dtype.itemsize + 2 * kept
    room = 0.9 * total - resident
    return Budget(max(_FEWEST, min(_SATURATION, int(room / again))), recompute=True)


def warm_start_tokens(config: Any) -> int:
    """Tokens of one padded forward of the warm start, at most: their activations until the backward pass, in fp32."""
    return WARM_START_BYTES // warm_start_token_bytes(config)


def warm_start_token_bytes(config: Any) -> int:
    """Bytes that a token of the warm start keeps for its backward pass."""
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return int(config.num_hidden_layers) * (16 * width + 6 * inner) * 4


def kept_bytes(config: Any, dtype: torch.dtype, budget: Budget) -> int:
    """Bytes of activations that a forward of a whole budget keeps for its backward pass."""
    layers, kept = config.num_hidden_layers, layer_bytes(config, dtype)
    if budget.recompute:
        return int(budget.tokens * (layers * config.hidden_size * dtype.itemsize + 2 * kept))
    return int(budget.tokens * layers * kept)


def layer_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes that one layer keeps per token for the backward pass, by transformers' own modules.

    Of norms: inputs and outputs. Of attention: queries, keys, values, rotated ones, output. Of the gated network: gate,
    activation, up and product.
    """
    width, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(dtype.itemsize * (11 * width + 4 * inner))


def resident_bytes(trained: int, read: int, dtype: torch.dtype) -> int:
    """Bytes of models in memory, from numbers of parameters that are trained and that are only read."""
    return trained * _TRAINED_BYTES[dtype] + read * dtype.itemsize


def budget_of(model: Any, most: int, trained: int = 0, read: int = 0, foreign: int = 0) -> Budget:
    """The budget where the model is.

    Args:
        model: the largest one that is run.
        most: tokens on a CPU.
        trained, read: copies of the model in training, and that are only read, on a GPU; of a shared base there is one
            in any case.
        foreign: bytes of a GPU's memory that another process has.
    """
    weight = next(model.parameters())
    if weight.device.type == "cpu":
        return on_cpu(model.config, most)
    size = sum(parameter.numel() for parameter in own_parameters(model))
    base = sum(parameter.numel() for parameter in model.parameters() if of_base(parameter))
    total = torch.cuda.get_device_properties(weight.device).total_memory
    resident = resident_bytes(trained * size, read * size + base, weight.dtype)
    return on_gpu(model.config, weight.dtype, total, resident + foreign)
