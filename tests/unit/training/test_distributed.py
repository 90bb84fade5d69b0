"""What several processes are built on, with a group of one here; `stages/test_improve_ranks.py` has groups of two."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.training import distributed
from ippo_trainer.training.distributed import ALONE, ManyRanks, joined


@dataclass
class Piece:
    name: str
    owner: int


def test_small_things_are_agreed_on(group: ManyRanks) -> None:
    value = {"a": [1, 0.1], "b": "ü", "c": float("inf")}
    assert group.agreed(value) == value
    assert group.gathered([None, value]) == [[None, value]]
    assert group.sums({"x": 0.5, "y": 2.0}) == {"x": 0.5, "y": 2.0}
    assert (group.any(True), group.any(False)) == (True, False)
    assert str(group.maximum(float("nan"))) == "nan"


def test_all_run_equally_many_parts_and_each_counts_once() -> None:
    pieces = [Piece("a", 0), Piece("b", 0), Piece("c", 1)]
    shares = []
    for rank in range(3):
        member = ManyRanks.__new__(ManyRanks)
        member.rank, member.size = rank, 3
        shares.append([(piece.name, counts) for piece, counts in member.share(pieces)])
    assert shares == [
        [("a", True), ("b", True)],
        [("c", True), ("c", False)],
        [("a", False), ("a", False)],
    ]
    assert [piece.name for piece, _ in ALONE.share(pieces)] == ["a", "b", "c"]


def test_a_process_that_nobody_launched_is_alone() -> None:
    with joined(torch.device("cpu")) as ranks:
        assert ranks is ALONE


def test_a_lost_process_is_a_reason_to_try_again_and_a_bug_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "LINGER_SECONDS", 0.0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def fail(error: Exception) -> None:
        def lose(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(dist, "init_process_group", lose)
        with joined(torch.device("cpu")):
            pass

    with pytest.raises(TryAgainError, match="another process of this stage"):
        fail(RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"))
    with pytest.raises(TryAgainError, match="never came"):
        fail(dist.DistNetworkError("no host"))
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes do not match"))
