"""Models that are read now and then wait in main memory, so that a GPU has room for what is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ippo_trainer.models.adapters import is_adapted


def park(model: Any) -> None:
    """From now on, a model on a GPU is there inside `present` only. Nothing may change its parameters any more.

    A model on a shared base stays: its own part is small, and others need the base.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    if device.type != "cuda" or is_adapted(model):
        return
    model.parked = (device, [parameter.data.to("cpu").pin_memory() for parameter in parameters])
    _leave(model)


def device_of(model: Any) -> torch.device:
    """Where a model computes."""
    parked = getattr(model, "parked", None)
    device: torch.device = next(model.parameters()).device if parked is None else parked[0]
    return device


@contextmanager
def present(model: Any) -> Iterator[None]:
    """Inside, a model is where it computes."""
    parked = getattr(model, "parked", None)
    if parked is None or next(model.parameters()).device == parked[0]:
        yield
        return
    for parameter, waiting in zip(model.parameters(), parked[1], strict=True):
        parameter.data = waiting.to(parked[0], non_blocking=True)
    try:
        yield
    finally:
        _leave(model)


def _leave(model: Any) -> None:
    for parameter, waiting in zip(model.parameters(), model.parked[1], strict=True):
        parameter.data = waiting
