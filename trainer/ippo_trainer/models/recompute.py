"""Activation checkpointing: layers forget their activations and compute them again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute(trunk: Any) -> None:
    """From now on, the trunk's layers keep nothing but their inputs for the backward pass (arXiv 1604.06174)."""
    # No dropout, so no random numbers to restore, and equal inputs give equal shapes.
    options = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    trunk.gradient_checkpointing_enable(options)


@contextmanager
def recomputed_layers(trunk: Any) -> Iterator[None]:
    """Around a forward: turns it on for the layers if there will be a backward pass.

    transformers asks a layer whether it is training. Ours are not: nothing but this differs between the two.
    """
    layers = [each for each in trunk.modules() if isinstance(each, GradientCheckpointingLayer)]
    layers = [layer for layer in layers if layer.gradient_checkpointing] if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
