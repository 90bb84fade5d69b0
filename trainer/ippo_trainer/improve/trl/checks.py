"""What trl's trainers cannot do with some policies, seen before they start."""

from collections.abc import Sequence
from typing import Any

import torch

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.models import memory
from ippo_trainer.models.kernels import HALVES, compiles
from ippo_trainer.models.parking import device_of
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.sampling import token_bytes

_TOLERANCE, _ROUNDED = 1e-3, 5e-2
"""Norm of the difference over the norm, in fp32 and in 16 bits; where positions are wrong it is far above."""


def check_compiler(device: torch.device, name: str) -> None:
    """BadSpecError if trl's kernels for a GPU cannot be compiled; ours have others to fall back on, trl's have none.

    Args:
        device: of the policy.
        name: of the algorithm.
    """
    if device.type == "cuda" and not compiles():
        raise BadSpecError(
            f"improve.algorithm {name}: on a GPU trl compiles kernels, and there is no C compiler here",
            "Use an image with gcc, or PPO or MPO.",
        )


def check_room(policy: Any, rows: int, longest: int, name: str) -> None:
    """BadDataError if keys and values of a rollout have no room: trl generates all of its suggestions at once.

    Args:
        policy: that generates.
        rows: suggestions of a rollout.
        longest: tokens of a prompt and its suggestion.
        name: of the algorithm.
    """
    device = device_of(policy)
    need = rows * longest * token_bytes(policy.config, next(policy.parameters()).dtype)
    who = f"improve.algorithm {name} generates {rows} suggestions at once, whose keys and values take"
    remedy = "Lower improve.batchSize or improve.samplesPerState, or use PPO or MPO, which sample in parts."
    if device.type == "cpu":
        memory.check_room(who, need + memory.held(), "this container or machine has", memory.memory_limit(), remedy)
    else:
        memory.check_room(who, need, "what is free on this GPU is", memory.free_bytes(device), remedy)


def check_forward(policy: Any, prompts: Sequence[list[int]], pad_id: int, name: str) -> None:
    """BadSpecError if prompts that are padded on the left, as trl has them, give other states than they do alone.

    So it is with models that number places from the start of a row, such as GPT-2.

    Args:
        policy: a causal LM.
        prompts: of some states.
        pad_id: fills the left.
        name: of the algorithm.
    """
    short = min(prompts, key=len)
    padding = max(len(max(prompts, key=len)) - len(short), 1)
    device = device_of(policy)
    alone = torch.tensor([short], device=device)
    padded = torch.tensor([[pad_id] * padding + short], device=device)
    mask = torch.arange(padded.shape[1], device=device).unsqueeze(0) >= padding
    with torch.no_grad():
        own = decoder(policy)(input_ids=alone, use_cache=False).last_hidden_state[0].float()
        theirs = decoder(policy)(input_ids=padded, attention_mask=mask.long(), use_cache=False)
    error = float((theirs.last_hidden_state[0, padding:].float() - own).norm() / own.norm())
    if not error <= (_ROUNDED if next(policy.parameters()).dtype in HALVES else _TOLERANCE):
        raise BadSpecError(
            f"improve.algorithm {name}: trl pads prompts on the left, and this policy then gives other numbers "
            f"(by {error:.2g} of their norm)",
            "Use PPO or MPO, or a base with relative positions, such as Llama's or Qwen's.",
        )
