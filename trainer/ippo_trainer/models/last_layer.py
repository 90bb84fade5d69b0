"""The last layer of a Q model by least squares: what is read of the trunk's features, and its file beside the weights.

It is fitted by `qfit.least_squares`. Whoever loads a Q model reads Q and V through it, if it is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.packing import PackedBatch

FILE = "last_layer.safetensors"
"""In the directory of a Q model."""
BLOCK_ROWS = 8192
"""Rows whose features exist at once while it is fitted, where those of all rows have more than KEPT_BYTES."""
KEPT_BYTES = 256 << 20
"""Features of all rows that are kept: a fixed point reads them some hundred times."""
LINEAR = 128
"""Columns that stand for the features of states, and of suggestions, at most."""
READINGS = 2
"""Times the trunk's width, a suggestion's features: see `suggestion_features`."""
_GRAMS = 4
"""Tables of products of features, besides those of the folds, while one of them is factored."""
_LEAST_SCALE = 1e-3  # of a feature's standard deviation, so that a constant feature stays finite
_LEAST_VARIANCE = 1e-12
EDGE = 1e-3
"""Predictions stay this far from 0 and 1, so that they have a logit."""


class Span(nn.Module):
    """Where features of one kind lie: their centre, the columns that stand for them, and their leading components.

    Args:
        width: F, of the features.
        rank: how many components.
    """

    centre: Tensor
    """(F,) mean features."""
    linear: Tensor
    """(F, L) from features to columns of unit variance: one for each feature, or, where there are more than LINEAR, one
    for each of the leading components. Thousands of columns would have more coefficients than a log has outcomes."""
    basis: Tensor
    """(F, rank)"""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        shapes = {"centre": (width,), "linear": (width, linear_columns(width)), "basis": (width, rank)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.double))

    def take(self, features: Tensor, kind: str) -> None:
        """Takes those of features (n, F). Components are not whitened: the ridge shrinks what varies little.

        Raises:
            BadDataError: features that are not finite, or the same everywhere; names the kind.
        """
        centre = features.mean(0, dtype=torch.double)
        if not bool(torch.isfinite(centre).all()):
            raise BadDataError("the trunk's features are not finite", "Lower fitQ.learningRate.")
        moments = torch.zeros(len(centre), len(centre), dtype=torch.double)
        for start in range(0, len(features), BLOCK_ROWS):
            rows = features[start : start + BLOCK_ROWS].double() - centre
            moments += rows.T @ rows
        covariance = moments / len(features)
        variances, vectors = torch.linalg.eigh(covariance)
        if not float(variances[-1]) > _LEAST_VARIANCE:
            raise BadDataError(
                f"the trunk of Q gives all {kind} the same features, so nothing tells them apart",
                "See that conversations differ, and that fitQ.learningRate has not destroyed the trunk.",
            )
        self.centre.copy_(centre)
        self.basis.copy_(vectors.flip(1)[:, : self.basis.shape[1]] / variances.mean().sqrt())
        columns = self.linear.shape[1]
        if columns == len(centre):
            self.linear.copy_((1.0 / (covariance.diagonal().clamp_min(0).sqrt() + _LEAST_SCALE)).diag())
        else:
            scale = variances.flip(0)[:columns].clamp_min(0).sqrt() + _LEAST_SCALE
            self.linear.copy_(vectors.flip(1)[:, :columns] / scale)

    def scaled(self, features: Tensor) -> Tensor:
        """(n, L) float64 columns, in standard deviations from the centre."""
        return (features.double() - self.centre) @ self.linear

    def components(self, features: Tensor) -> Tensor:
        """(n, rank) float64."""
        return (features.double() - self.centre) @ self.basis


class LastLayer(nn.Module):
    """Q is linear in state, action and the products of their leading components; V is quadratic in the state.

    The M members, fits of different ranks to different folds, share one basis, so that their mean is one linear map.

    Args:
        widths: D and A, of the features of states and of actions.
        rank: leading components that the members use at most.
        members: M.
    """

    states: Span
    actions: Span
    q: Tensor
    """(M, columns of `q_features`)"""
    v: Tensor
    """(M, columns of `v_features`)"""
    member_rank: Tensor
    """(M,) the rank of each member."""
    upper: Tensor

    def __init__(self, widths: tuple[int, int], rank: int, members: int) -> None:
        super().__init__()
        self.rank = rank
        self.states, self.actions = (Span(width, rank) for width in widths)
        for name, shape in (
            ("q", (members, _q_columns(widths, rank))),
            ("v", (members, _v_columns(widths[0], rank))),
            ("member_rank", (members,)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.double))
        self.register_buffer("upper", torch.triu_indices(rank, rank), persistent=False)

    def span(self, states: Tensor, actions: Tensor) -> None:
        """Takes centre, scale and leading components of the features (n, D) of states and (n, A) of actions.

        Raises:
            BadDataError: features that are not finite, or the same everywhere.
        """
        self.states.take(states, "states")
        self.actions.take(actions, "suggestions")

    def q_features(self, states: Tensor, actions: Tensor) -> Tensor:
        """(n, 1 + L + L' + rank^2) float64, of features (n, D) and (n, A) with L and L' linear columns."""
        s, a = self.states, self.actions
        products = (s.components(states).unsqueeze(2) * a.components(actions).unsqueeze(1)).flatten(1)
        return torch.cat([_constant(products), s.scaled(states), a.scaled(actions), products], 1)

    def v_features(self, states: Tensor) -> Tensor:
        """(n, 1 + L + rank (rank + 1) / 2) float64, of features (n, D) with L linear columns."""
        z = self.states.components(states)
        return torch.cat([_constant(z), self.states.scaled(states), z[:, self.upper[0]] * z[:, self.upper[1]]], 1)

    def forward(self, states: Tensor, repeated: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of Q (N,) and of V (G,), fp32.

        Args:
            states: (G, D).
            repeated: (N, D) the state of each action.
            actions: (N, A).
        """
        q = self.q_features(repeated, actions) @ self.q.mean(0)
        v = self.v_features(states) @ self.v.mean(0)
        return q.clamp(EDGE, 1 - EDGE).logit().float(), v.clamp(EDGE, 1 - EDGE).logit().float()

    def standard_error(self, states: Tensor, actions: Tensor) -> Tensor:
        """(n,) estimated standard error of Q, from how the members differ.

        The variance between the ranks' means, and the mean of the ranks' own delete-one-fold jackknife variances:
        (K - 1) / K times the sum of squared deviations of K fits (Efron and Stein 1981).
        """
        predictions = self.q_features(states, actions) @ self.q.T
        groups = [predictions[:, self.member_rank == rank] for rank in sorted(set(self.member_rank.tolist()))]
        between = torch.stack([group.mean(1) for group in groups], 1).var(1, unbiased=False)
        within = torch.stack([(group.shape[1] - 1) * group.var(1, unbiased=False) for group in groups], 1).mean(1)
        return (between + within).sqrt()

    def q_columns(self, rank: int) -> Tensor:
        """Columns of `q_features` that a member of that rank uses."""
        linear, grid = self.q.shape[1] - self.rank**2, torch.arange(self.rank)
        products = (grid[:rank, None] * self.rank + grid[None, :rank]).flatten()
        return torch.cat([torch.arange(linear), linear + products])

    def v_columns(self, rank: int) -> Tensor:
        """Columns of `v_features` that a member of that rank uses."""
        linear = self.v.shape[1] - self.upper.shape[1]
        products = torch.arange(self.upper.shape[1])[(self.upper < rank).all(0)]
        return torch.cat([torch.arange(linear), linear + products])


def linear_columns(width: int) -> int:
    """How many columns stand for so many features."""
    return min(width, LINEAR)


def _q_columns(widths: Sequence[int], rank: int) -> int:
    return 1 + sum(map(linear_columns, widths)) + rank**2


def _v_columns(width: int, rank: int) -> int:
    return 1 + linear_columns(width) + rank * (rank + 1) // 2


def _constant(rows: Tensor) -> Tensor:
    return torch.ones_like(rows[:, :1])


def suggestion_features(hidden: Tensor, packed: PackedBatch) -> Tensor:
    """(N, 2 D) fp32 of every response: the trunk's states at its last token, and their mean over its tokens.

    The last token has read the whole conversation, and the words are but a part of that; the mean is mostly words.

    Args:
        hidden: (R*L, D) of the packed batch.
        packed: the batch.
    """
    total = torch.zeros(len(packed.lengths), hidden.shape[1], device=hidden.device)
    total.index_add_(0, packed.response_index, hidden[packed.token_index].float())
    return torch.cat([hidden[packed.response_end_index].float(), total / packed.lengths.unsqueeze(1)], 1)


def fit_bytes(width: int, ranks: Sequence[int], folds: int) -> int:
    """Bytes of main memory that `qfit.least_squares` takes at most, for any number of turns.

    Args:
        width: D, of the trunk.
        ranks, folds: there is a member for each rank and fold, which keeps a factor of its columns squared.
    """
    widths = width, READINGS * width
    columns = _q_columns(widths, max(ranks))
    factors = sum(_q_columns(widths, rank) ** 2 + _v_columns(width, rank) ** 2 for rank in ranks)
    return 8 * ((folds + _GRAMS) * columns**2 + folds * factors) + min(KEPT_BYTES, 8 * BLOCK_ROWS * columns)


def last_layer(model: Any) -> LastLayer | None:
    """The last layer that a Q model is read through; None where it is read through its own head."""
    layer: LastLayer | None = getattr(model, "last_layer", None)
    return layer


def attach(model: Any, layer: LastLayer | None) -> None:
    """Has a Q model read through `layer`, or through its own head again."""
    if last_layer(model) is not None:
        del model.last_layer
    if layer is not None:
        model.last_layer = layer.to(next(model.parameters()).device).requires_grad_(False)


def save(directory: Path, layer: LastLayer) -> None:
    """Writes it beside the weights of its model."""
    save_file({name: value.cpu().contiguous() for name, value in layer.state_dict().items()}, directory / FILE)


def load(directory: Path, width: int) -> LastLayer | None:
    """The last layer in a Q model's directory; None where there is none.

    Args:
        directory: of the model.
        width: of the model's trunk.

    Raises:
        BadDataError: the file is damaged, or of another model.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        layer = LastLayer((width, READINGS * width), tensors["states.basis"].shape[1], len(tensors["q"]))
        layer.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, IndexError, RuntimeError) as error:
        raise BadDataError(
            f"{FILE} of the Q model in {directory.name} does not fit the model: {' '.join(str(error).split())[:200]}",
            "Pass the artifact of a fit-q stage as it was published.",
        ) from error
    return layer
