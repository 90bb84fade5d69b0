"""Attention on a GPU without a mask of every query and key, and without keys and values expanded to all heads.

A packed tree has a block mask (FlexAttention, arXiv 2412.05496), a prefill is causal, and a decoding step is two
products by groups of queries. The layers reach this by transformers' interface of attention functions; on a CPU they
go on with transformers' own.
"""

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "ippo"
"""Of the attention function, in a config."""
BLOCK = 128
"""Tokens of a block of FlexAttention's masks."""
HALVES = (torch.bfloat16, torch.float16)
"""Types whose sums need a wider one."""


def enable(model: Any) -> None:
    """Lets a model attend by `attend`, where its attention is scaled dot products and nothing else."""
    capped = getattr(model.config, "attn_logit_softcapping", None) is not None
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    if model._supports_attention_backend and model._supports_flex_attn and not capped and not sinks:
        model.set_attn_implementation(NAME)
    for module in model.modules():
        if _is_root_mean_square(module):
            kind: type = type(module)
            module.__class__ = _fused(kind)


def _is_root_mean_square(module: Any) -> bool:
    """Whether a module is x / sqrt(mean(x^2) + epsilon) * weight and nothing else, as its numbers say."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if weight is None or epsilon is None or weight.dim() != 1:
        return False
    probe = torch.linspace(-2.0, 3.0, len(weight), dtype=weight.dtype, device=weight.device).unsqueeze(0)
    with torch.no_grad():
        return torch.allclose(module(probe), functional.rms_norm(probe, weight.shape, weight, epsilon), atol=1e-5)


@cache
def _fused(kind: type) -> type:
    """The class of a norm that is one kernel, and keeps its input only for the backward pass."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return type(kind.__name__, (kind,), {"forward": forward})


def enabled(trunk: Any) -> bool:
    """Whether `enable` did so."""
    return getattr(trunk.config, "_attn_implementation", None) == NAME


def causal(device: torch.device) -> Tensor:
    """A mask (1, 1, 1, 1) that stands for: query i sees the keys up to i."""
    return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function.

    Args:
        module: the attention layer.
        query: (R, heads, q, d).
        key, value: (R, groups, k, d), where groups divide heads.
        attention_mask: a block mask, `causal`, a (R, 1, q, k) mask that is bool or additive, or None.
        scaling: of the scores; by default 1 / sqrt(d).

    Returns:
        (R, q, heads, d), and None for the weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(attention_mask, BlockMask):
        run = compiled(flex_attention) if query.is_cuda else flex_attention
        output = run(query, key, value, block_mask=attention_mask, scale=scale, enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None
    if query.shape[2] == 1 and attention_mask is not None and attention_mask.dtype == torch.bool:
        return _one_query(query, key, value, attention_mask, scale), None
    if attention_mask is not None and attention_mask.shape[2:] == (1, 1):
        attention_mask = None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scale, **more)
    return output, None


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(R, 1, heads, d) for one query a row: the queries of a group meet its keys in one product."""
    rows, heads, _, width = query.shape
    groups, columns = key.shape[1], key.shape[2]
    asked = query.reshape(rows * groups, heads // groups, width)
    scores = product(asked, key.reshape(rows * groups, columns, -1).transpose(1, 2)) * scale
    scores = scores.view(rows, groups, heads // groups, columns).masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).to(value.dtype).view(rows * groups, heads // groups, columns)
    output = weights @ value.reshape(rows * groups, columns, -1)
    return output.view(rows, 1, heads, -1)


def product(left: Tensor, right: Tensor) -> Tensor:
    """(n, a, b) times (n, b, c), or (a, b) times (b, c), summed up and returned in fp32 at least."""
    if left.dtype not in HALVES:
        return left @ right
    if not left.is_cuda:
        return left.float() @ right.float()
    multiply: Any = torch.bmm if left.dim() == 3 else torch.mm
    result: Tensor = multiply(left, right, out_dtype=torch.float32)
    return result


def tree_mask(branches: Tensor, positions: Tensor, visible: Tensor, window: int | None) -> BlockMask:
    """The block mask of a packed batch whose rows are laid end to end.

    Args:
        branches, positions, visible: (R, L) as in `packing.PackedBatch`, L whole blocks.
        window: tokens that a query sees at most; None for all.
    """
    branches, positions, visible = branches.int(), positions.int(), visible.int()
    rows, width = branches.shape
    partial, full = _tiles(branches, positions, visible, window)
    first = torch.arange(rows, device=branches.device, dtype=torch.int).mul_(width + 2).unsqueeze(1)
    trunk = (first + 1).expand(rows, width).reshape(-1)  # numbers of trunks and branches over all the rows
    branch, position, reach = (table.reshape(-1) for table in (first + 1 + branches, positions, visible))

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (branch[query] == branch[key]) & (position[key] <= position[query])
        allowed = own | ((branch[key] == trunk[query]) & (position[key] < reach[query]))
        return allowed if window is None else allowed & (position[query] - position[key] < window)

    (count, blocks), (full_count, full_blocks) = _indices(partial), _indices(full)
    size = (rows * width, rows * width)
    return BlockMask.from_kv_blocks(count, blocks, full_count, full_blocks, BLOCK, rule, seq_lengths=size)


def padded(table: Tensor, fill: int) -> Tensor:
    """(R, L) with columns of `fill` up to the next whole block."""
    return functional.pad(table, (0, -table.shape[1] % BLOCK), value=fill)


def _tiles(branches: Tensor, positions: Tensor, visible: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """Which blocks of each row are seen in part and which as a whole, (R, blocks, blocks) bool each."""
    some, every = [], []
    for branch, position, reach in zip(branches, positions, visible, strict=True):  # a row at a time: L * L bool
        allowed = (branch[:, None] == branch) & (position <= position[:, None])
        allowed |= (branch == 0) & (position < reach[:, None])
        if window is not None:
            allowed &= position[:, None] - position < window
        count = len(branch) // BLOCK
        tiles = allowed.view(count, BLOCK, count, BLOCK)
        some.append(tiles.any(3).any(1))
        every.append(tiles.all(3).all(1))
    full = torch.stack(every)
    return torch.stack(some) & ~full, full


def _indices(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of blocks sees, and which first, over all the rows laid end to end."""
    rows, count, _ = tiles.shape
    numbers = torch.arange(rows, device=tiles.device)
    table = torch.zeros((rows, count, rows, count), dtype=torch.bool, device=tiles.device)
    table[numbers, :, numbers, :] = tiles
    table = table.view(1, 1, rows * count, rows * count)
    return table.sum(-1).int(), table.int().argsort(dim=-1, descending=True, stable=True).int()


@cache
def compiles() -> bool:
    """Whether kernels can be compiled here: Triton compiles its driver with a C compiler when it starts."""
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    if not compiler:
        logging.getLogger(__name__).warning(
            "there is no C compiler, so attention and log-probabilities run in torch's own kernels: slower, and with "
            "a mask of every query and key"
        )
    return compiler


@cache
def compiled(function: Callable[..., Any]) -> Any:
    """The function as one kernel, or as few, for inputs of any size."""
    return torch.compile(function, dynamic=True)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
