"""Activation checkpointing: layers forget their activations and compute them again in the backward pass."""

from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute(trunk: Any) -> None:
    """From now on, the trunk's layers keep nothing but their inputs for the backward pass (arXiv 1604.06174)."""
    # No dropout, so no random numbers to restore, and equal inputs give equal shapes.
    options = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    trunk.gradient_checkpointing_enable(options)


def recompute_layers(trunk: Any) -> None:
    """Before a forward: turns it on for the layers where there will be a backward pass.

    transformers asks a layer whether it is training. Ours are not: nothing but this differs between the two.
    """
    for layer in trunk.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = torch.is_grad_enabled()
