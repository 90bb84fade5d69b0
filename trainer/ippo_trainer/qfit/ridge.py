"""Ridge regressions on the same rows that differ in columns and in the fold of rows that they leave out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.last_layer import BLOCK_ROWS, KEPT_BYTES

_STRIPES = 8


@dataclass(frozen=True, slots=True)
class Member:
    """One regression of several: which columns it uses, and which fold of the rows it never sees."""

    columns: Tensor
    """(C,) int64, the constant's column 0 among them."""
    fold: int | None
    """None: it sees all rows."""


def blocks(count: int) -> Iterator[slice]:
    """Consecutive pieces of `count` rows."""
    return (slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS))


class Regressions:
    """M weighted ridge regressions with one pass for all their Gram matrices, in float64.

    Args:
        features: rows -> (rows, P) float64, column 0 constant.
        weight: (n,) of the rows.
        fold: (n,) int64 number of each row's fold.
        members: see there.
        ridge: penalty on squared coefficients, the constant's excepted.

    Raises:
        BadDataError: a Gram matrix that is singular.
    """

    def __init__(
        self,
        features: Callable[[slice], Tensor],
        weight: Tensor,
        fold: Tensor,
        members: Sequence[Member],
        ridge: float,
    ) -> None:
        self._make, self.members = features, members
        self._kept: dict[int, Tensor] | None = {}
        masks = [torch.ones_like(fold) if member.fold is None else fold != member.fold for member in members]
        self.weights = weight.double().unsqueeze(1) * torch.stack(masks, 1).double()  # (n, M)
        grams = self._grams(weight.double(), fold)
        self._factors = [_factor(_without(grams, member), ridge) for member in members]
        self.width = grams.shape[1]

    def features(self, rows: slice) -> Tensor:
        """(rows, P) float64 of a block."""
        if self._kept is None:
            return self._make(rows)
        if rows.start not in self._kept:
            block = self._make(rows)
            if block.shape[1] * block.element_size() * len(self.weights) > KEPT_BYTES:
                self._kept = None
                return block
            self._kept[rows.start] = block
        return self._kept[rows.start]

    def solve(self, targets: Tensor) -> Tensor:
        """(M, P) coefficients for targets (n, M), one column for each member; 0 where a member has no column."""
        moments = torch.zeros(self.width, len(self.members), dtype=torch.double)
        for rows in blocks(len(self.weights)):
            moments += self.features(rows).T @ (self.weights[rows] * targets[rows])
        coefficients = torch.zeros(len(self.members), self.width, dtype=torch.double)
        for number, (member, factor) in enumerate(zip(self.members, self._factors, strict=True)):
            solved = torch.cholesky_solve(moments[member.columns, number].unsqueeze(1), factor)
            coefficients[number, member.columns] = solved.squeeze(1)
        return coefficients

    def predict(self, coefficients: Tensor) -> Tensor:
        """(n, M) predictions of the members for all rows."""
        return torch.cat([self.features(rows) @ coefficients.T for rows in blocks(len(self.weights))])

    def _grams(self, weight: Tensor, fold: Tensor) -> Tensor:
        """(folds, P, P) X' W X of each fold's rows."""
        total: Tensor | None = None
        for rows in blocks(len(weight)):
            features = self.features(rows)
            if total is None:
                total = torch.zeros(int(fold.max()) + 1, *features.shape[1:] * 2, dtype=torch.double)
            for number in sorted(set(fold[rows].tolist())):
                mask = fold[rows] == number
                _add_gram(total[number], features[mask], weight[rows][mask])
        assert total is not None  # there are rows
        for gram in total:  # one by one: a table of each is what there is room for
            gram.triu_()
            gram += gram.triu(1).T
        return total


def _add_gram(total: Tensor, features: Tensor, weight: Tensor) -> None:
    """Adds X' W X to the upper triangle of `total` (P, P), stripe by stripe: a product of all with all would compute
    nearly twice as much, and takes most of the time of a fit."""
    weighted = features * weight.unsqueeze(1)
    stripe = -(-features.shape[1] // _STRIPES)
    for start in range(0, features.shape[1], stripe):
        total[start : start + stripe, start:].addmm_(features[:, start : start + stripe].T, weighted[:, start:])


def _without(grams: Tensor, member: Member) -> Tensor:
    gram = grams.sum(0) if member.fold is None else grams.sum(0) - grams[member.fold]
    return gram[member.columns][:, member.columns]


def _factor(gram: Tensor, ridge: float) -> Tensor:
    diagonal = torch.full((len(gram),), ridge, dtype=torch.double)
    diagonal[0] = 0.0
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(gram + diagonal.diag())
    if int(failed) or not bool(torch.isfinite(factor).all()):
        raise BadDataError(
            "the last layer's least squares have no single solution: its Gram matrix is singular",
            "Raise fitQ.ridge, lower fitQ.ranks, or collect more conversations (collect.simulate.conversations).",
        )
    return factor
