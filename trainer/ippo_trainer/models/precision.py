"""The type that weights and activations have on a device, and how far two forwards of one policy may then differ."""

from dataclasses import dataclass

import torch

from ippo_trainer.contract.errors import BadSpecError


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model computes. Log-probabilities, losses, sums and what is trained are fp32 in any case.

    Args:
        dtype: of weights and activations.
        ratio_tolerance: how far the first minibatch's ratio may be from 1.
        trusted_ratio: geometric mean of trainer / sampler, by response, outside of which a response does not train.
    """

    dtype: torch.dtype
    ratio_tolerance: float
    trusted_ratio: tuple[float, float]


FLOAT32 = Precision(torch.float32, 1e-4, (0.9, 1.1))
# Measured, docs/ppo.md: rounding to 8 bits moves a token's log-probability by about a hundredth.
BFLOAT16 = Precision(torch.bfloat16, 1e-2, (0.8, 1.25))


def precision_of(name: str | None, device: torch.device, several: bool = False) -> Precision:
    """What `policy.precision` means on a device; None is bfloat16 on a GPU and float32 on a CPU.

    Args:
        name: the setting.
        device: of the models.
        several: processes divide what is trained. The lower halves of weights cannot travel between GPUs (NCCL has no
            int16), so several processes compute in float32.

    Raises:
        BadSpecError: the GPU has no bfloat16, or several processes are asked for it.
    """
    if several:
        if name == "BFloat16":
            raise BadSpecError(
                "policy.precision is BFloat16, which an improve on several processes cannot train",
                "Set Float32 or nothing, or give improve one process.",
            )
        return FLOAT32
    able = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name is None:
        return BFLOAT16 if device.type != "cpu" and able else FLOAT32
    if name == "BFloat16" and not able:
        raise BadSpecError(
            f"policy.precision is BFloat16, which {torch.cuda.get_device_name(device)} does not have",
            "Set Float32, or ask for a GPU of the Ampere generation or newer.",
        )
    return BFLOAT16 if name == "BFloat16" else FLOAT32
