"""AdamW for weights of which a GPU computes with the upper halves (`models.halves`)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ippo_trainer.models.halves import halves, joined
from ippo_trainer.training.distributed import local, whole

_CHUNK = 1 << 26
"""Weights that are whole at once, or those of one parameter."""


class HalvedAdamW(torch.optim.Optimizer):
    """torch's AdamW in fp32, whatever the parameters' type; a bfloat16 one has its lower half in `low`.

    A parameter without one, such as a freshly sharded one, gets zeros.
    """

    def __init__(self, groups: Any, *, lr: float, betas: tuple[float, float], eps: float, fused: bool) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "fused": fused})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dtype == torch.bfloat16 and not hasattr(parameter, "low"):
                    parameter.low = torch.zeros_like(parameter, dtype=torch.int16, requires_grad=False)

    @torch.no_grad()
    def step(self, divisor: Tensor | None = None) -> None:  # type: ignore[override]
        """One step along the gradients divided by `divisor`; None: as they are, for loops that clip them themselves."""
        for group in self.param_groups:
            for dtype in (torch.bfloat16, torch.float32):
                parameters = [each for each in group["params"] if each.grad is not None and each.dtype == dtype]
                for chunk in _chunks(parameters):
                    self._step(group, chunk, divisor)

    def _step(self, group: dict[str, Any], parameters: list[Tensor], divisor: Tensor | None) -> None:
        """Of some parameters, whose weights and gradients lie in one table each meanwhile: few kernels for many."""
        states = [self._state(parameter) for parameter in parameters]
        halved = parameters[0].dtype == torch.bfloat16
        weights = _together(parameters)
        if halved:
            weights = joined(weights, _together([_low(parameter) for parameter in parameters]))
        gradients = _together([parameter.grad for parameter in parameters if parameter.grad is not None])
        adamw(
            _apart(weights, parameters),
            _apart(gradients.float() if divisor is None else gradients.float().div_(divisor), parameters),
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if halved:
            weights, low = halves(weights)
            torch._foreach_copy_([local(_low(each)) for each in parameters], _apart(low, parameters))
        torch._foreach_copy_([local(each.detach()) for each in parameters], _apart(weights, parameters))

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
        return state


def _chunks(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for parameter in parameters:
        if chunk and sum(each.numel() for each in chunk) + parameter.numel() > _CHUNK:
            yield chunk
            chunk = []
        chunk.append(parameter)
    if chunk:
        yield chunk


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, in fp32."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients, 2, torch.float32)
    total: Tensor = torch.linalg.vector_norm(torch.stack([whole(norm) for norm in norms]))
    return total


def _low(parameter: Tensor) -> Tensor:
    low: Tensor = parameter.low  # type: ignore[attr-defined]
    return low


def _together(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([local(tensor.detach()).reshape(-1) for tensor in tensors])


def _apart(table: Tensor, likes: Sequence[Tensor]) -> list[Tensor]:
    """Views of a table, shaped as these are."""
    shapes = [local(like.detach()).shape for like in likes]
    parts = torch.split(table, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
