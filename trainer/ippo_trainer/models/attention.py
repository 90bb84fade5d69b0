"""The attention masks that a decoder takes, and up to which length its forward is a matter of each text alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FOLLOWING = {"longrope": "LongRoPE", "dynamic": "dynamic NTK rope"}
"""Rotary embeddings whose frequencies follow the longest text of a batch, beyond some length, by `rope_type`."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Most tokens that a text may have, and the property of the model that says so."""

    tokens: int
    why: str


def sliding_window(config: Any) -> int | None:
    """Tokens that a model's sliding-window layers see; None if it has none."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or _SLIDING in kinds
    window = getattr(config, "sliding_window", None) if slides else None
    return window if isinstance(window, int) else None


def limits(config: Any) -> list[Limit]:
    """What bounds the length of a text: the positions there are, and where a text's numbers would follow others'."""
    positions = getattr(config, "max_position_embeddings", None)
    bounds = [] if positions is None else [Limit(positions, f"the model's {positions} positions")]
    return bounds + list(_following(config))


def check_reach(decoder: Any, longest: int) -> None:
    """Raises BadDataError if a text is longer than a decoder treats every text of a batch alike."""
    for limit in _following(decoder.config):
        if longest > limit.tokens:
            raise BadDataError(
                f"a sequence of {longest} tokens exceeds {limit.why}",
                "Lower policy.maxPromptTokens, or choose a model without it.",
            )


def attention_mask(decoder: Any, seen: Tensor, queries: Tensor, keys: Tensor, longest: int) -> Any:
    """What to give a decoder as `attention_mask`.

    Args:
        decoder: its config tells its windows.
        seen: (R, q, k) bool, which query may see which key but for windows.
        queries: (R, q) the queries' positions.
        keys: (R or 1, k) the keys' positions.
        longest: no position is this large.

    Returns:
        A (R, 1, q, k) additive mask; where windows matter to some layers only, one for each kind of layer, by name.
    """
    dtype = next(decoder.parameters()).dtype
    window = sliding_window(decoder.config)
    if window is None or longest <= window:
        return additive_mask(seen, dtype)
    near = seen & (queries.unsqueeze(2) - keys.unsqueeze(1) < window)
    if getattr(decoder.config, "layer_types", None) is None:
        return additive_mask(near, dtype)
    return {_FULL: additive_mask(seen, dtype), _SLIDING: additive_mask(near, dtype)}


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, q, k) mask to be added to attention scores, from a (R, q, k) bool one."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _following(config: Any) -> Iterator[Limit]:
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *rope.values()):  # some models have parameters for each kind of layer
        kind = parameters.get("rope_type") if isinstance(parameters, dict) else None
        if kind in _FOLLOWING:
            tokens = config.max_position_embeddings
            if kind == "longrope":
                tokens = parameters.get("original_max_position_embeddings") or tokens
            why = f"the {tokens} tokens beyond which {_FOLLOWING[kind]} follows the longest text of a batch"
            yield Limit(int(tokens), why)
