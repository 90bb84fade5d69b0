"""AdamW on a list of parameters, one clipped step at a time."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.training.distributed import ALONE, Ranks, whole
from ippo_trainer.training.halved import HalvedAdamW, gradient_norm

CLIP_NORM = 1.0
"""Largest norm of all gradients together."""
_STEP = "step"
_MOMENTS = (_STEP, "exp_avg", "exp_avg_sq")


class Optimiser:
    """AdamW (arXiv 1711.05101) with a clipped gradient; a `StatePart`. bfloat16 weights are halves of fp32 ones.

    Args:
        parameters: each once; sharded already, where they will be. Frozen ones are left out.
        rate: peak of the learning rate.
        decay: weight decay of matrices; vectors have none.
        betas, epsilon: of Adam.
        ranks: the processes that step together.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float,
        *,
        decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        ranks: Ranks = ALONE,
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.rate, self.ranks = rate, ranks
        matrices = [parameter for parameter in self.parameters if parameter.dim() >= 2]
        vectors = [parameter for parameter in self.parameters if parameter.dim() < 2]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        filled = [group for group in groups if group["params"]]
        self._halved = any(parameter.dtype == torch.bfloat16 for parameter in self.parameters)
        kind: Any = HalvedAdamW if self._halved else torch.optim.AdamW
        self._adam = kind(filled, lr=rate, betas=betas, eps=epsilon, fused=True)

    @property
    def torch(self) -> torch.optim.Optimizer:
        """For a loop that steps and clips by itself."""
        optimiser: torch.optim.Optimizer = self._adam
        return optimiser

    def step(self, share: float = 1.0) -> float:
        """Steps along the accumulated gradients at `share` of the peak rate and forgets them.

        Returns:
            The norm of the gradients before the clip.
        """
        self.ranks.sum_gradients(self.parameters)
        for group in self._adam.param_groups:
            group["lr"] = self.rate * share
        if self._halved:
            norm = gradient_norm(self.parameters)
            self._adam.step((norm / CLIP_NORM).clamp_min(1.0))
        else:
            norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM))
            self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return float(norm)

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Adam's moments and step counts, by the number of the parameter; none before the first step."""
        for number, parameter in enumerate(self.parameters):
            moments = self._adam.state.get(parameter, {})
            yield from ((f"{number}.{name}", moments[name]) for name in _MOMENTS if name in moments)

    def layout(self) -> Mapping[str, Tensor | None]:
        """Moments lie as their parameter does; a step count is whole, on the parameters' device."""
        return {
            f"{number}.{name}": None if name == _STEP else parameter
            for number, parameter in enumerate(self.parameters)
            for name in _MOMENTS
        }

    def set_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Puts back what `tensors` gave."""
        for number, moments in groupby(tensors, key=lambda item: int(item[0].partition(".")[0])):
            parameter = self.parameters[number]
            # The fused step wants its count on the device, too.
            self._adam.state[parameter] = {key.partition(".")[2]: value.to(parameter.device) for key, value in moments}
