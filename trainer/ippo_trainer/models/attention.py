"""The attention masks that a decoder takes, and up to which length its forward is a matter of each text alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import kernels

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


def follows_the_batch(config: Any) -> bool:
    """Whether some rotary embedding looks at the longest text of a batch."""
    return next(_following(config), None) is not None


def attention_mask(
    decoder: Any, seen: Tensor, queries: Tensor, keys: Tensor, longest: int, causal: bool = False
) -> Any:
    """What to give a decoder as `attention_mask`.

    Args:
        decoder: its config tells its windows.
        seen: (R, q, k) bool, which query may see which key but for windows.
        queries: (R, q) the queries' positions.
        keys: (R or 1, k) the keys' positions.
        longest: no position is this large.
        causal: query i sees the keys up to i, but for windows, and so does `seen` say.

    Returns:
        A (R, 1, q, k) mask, additive or what `kernels.attend` takes; where windows matter to some layers only, one for
        each kind of layer, by name.
    """
    window = sliding_window(decoder.config)
    if window is None or longest <= window:
        return _mask(decoder, seen, causal)
    near = _mask(decoder, seen & (queries.unsqueeze(2) - keys.unsqueeze(1) < window), False)
    return by_kind(decoder, near, lambda: _mask(decoder, seen, causal))


def by_kind(decoder: Any, near: Any, full: Callable[[], Any]) -> Any:
    """Masks for a decoder some of whose layers have windows: `near` with the window, `full` without."""
    return near if getattr(decoder.config, "layer_types", None) is None else {_FULL: full(), _SLIDING: near}


def _mask(decoder: Any, seen: Tensor, causal: bool) -> Tensor:
    if kernels.enabled(decoder):
        return kernels.causal(seen.device) if causal else seen.unsqueeze(1)
    return additive_mask(seen, next(decoder.parameters()).dtype)


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
