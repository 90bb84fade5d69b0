"""Anderson acceleration of fixed-point iterations (Anderson 1965; type II of Walker and Ni 2011).

A contraction by the discount of .95 takes hundreds of plain steps. Where the map is nearly linear, a few steps and the
differences between them say where it leads, as GMRES does.
"""

from collections import deque

import torch
from torch import Tensor

WINDOW = 10
"""Former steps that are heeded."""
_GROWTH = 2.0
"""A residual that is larger than this times the smallest so far ends the memory: the map has bent."""
_RIDGE = 1e-12


class Accelerator:
    """Proposes the next points of several independent iterations x -> g(x), one a row."""

    def __init__(self) -> None:
        self._points: deque[tuple[Tensor, Tensor]] = deque(maxlen=WINDOW)
        """Residuals g(x) - x and images g(x), (M, P) each; the newest last."""
        self._least: Tensor | None = None

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """(M, P) where to go on from.

        Args:
            point: x, (M, P).
            image: g(x), (M, P).
        """
        residual = image - point
        size = residual.norm(dim=1)
        if self._least is not None and bool((size > _GROWTH * self._least).any()):
            self._points.clear()
            self._least = None
        self._least = size if self._least is None else torch.minimum(self._least, size)
        self._points.append((residual, image))
        if len(self._points) == 1:
            return image
        residuals, images = (torch.stack(each, 2) for each in zip(*self._points, strict=True))  # (M, P, k)
        steps, moved = residuals.diff(dim=2), images.diff(dim=2)
        gram = steps.transpose(1, 2) @ steps
        scale = gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(torch.finfo(gram.dtype).tiny)
        gram = gram + _RIDGE * scale[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype)
        shares, _ = torch.linalg.solve_ex(gram, steps.transpose(1, 2) @ residual.unsqueeze(2))
        # Of one that has arrived no differences are left, and its equations have no solution: the image is the point.
        proposal: Tensor = image - (moved @ shares).squeeze(2)
        return torch.where(torch.isfinite(proposal).all(1, keepdim=True), proposal, image)
