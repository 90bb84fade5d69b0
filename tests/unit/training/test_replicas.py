"""Processes that share the work of a small model: the same numbers everywhere, and none left behind."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError, TryAgainError
from ippo_trainer.training.optimiser import Optimiser
from ippo_trainer.training.replicas import SMALL_BYTES, processes_for, replicated
from torch import nn


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    """Servers of other tests may be there all the time."""
    before = children()
    yield
    assert children() <= before


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_what_they_exchange_is_the_same_everywhere(processes: int, tmp_path: Path) -> None:
    with replicated(processes) as ranks:
        table = torch.arange(3, dtype=torch.float64) + ranks.rank
        ranks.sum(table)
        values = [
            table.tolist(),
            ranks.sums({"a": 0.1 * (1 + ranks.rank)})["a"],
            ranks.maximum(float(ranks.rank)),
            ranks.any(ranks.rank == processes - 1),
            ranks.agreed(f"of {ranks.rank}"),
            ranks.gathered(ranks.rank),
            ranks.spread(torch.tensor([[1.5, float("inf")]]) if ranks.first else None, torch.zeros(1, 2)).tolist(),
            ranks.spread(torch.tensor(7) if ranks.first else None).item(),
        ]
        (tmp_path / str(ranks.rank)).write_text(repr(values))
    numbers = range(processes)
    total = sum(numbers)
    expected = [
        [total, processes + total, 2 * processes + total],
        pytest.approx(sum(0.1 * (1 + number) for number in numbers)),
        processes - 1,
        True,
        "of 0",
        list(numbers),
        [[1.5, float("inf")]],
        7,
    ]
    assert values == expected
    assert {(tmp_path / str(rank)).read_text() for rank in numbers} == {repr(values)}


def test_who_has_no_part_runs_one_in_vain(tmp_path: Path) -> None:
    parts = [SimpleNamespace(owner=0), SimpleNamespace(owner=0)]
    with replicated(2) as ranks:
        (tmp_path / str(ranks.rank)).write_text(repr([counts for _, counts in ranks.share(parts)]))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["[True, True]", "[False]"]


def test_a_not_a_number_is_the_largest_one() -> None:
    with replicated(2) as ranks:
        largest = ranks.maximum(float("nan") if ranks.rank else 1.0)
    assert largest != largest


def test_a_step_is_that_of_one_process_with_the_whole_batch() -> None:
    def train(processes: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        unused = nn.Parameter(torch.ones(2, dtype=torch.double))
        batch = torch.randn(6, 4, dtype=torch.double)
        with replicated(processes) as ranks:
            optimiser = Optimiser([*model.parameters(), unused], 0.1, ranks=ranks)
            for _ in range(5):
                own = batch[ranks.rank :: ranks.size]
                (model(own).square().sum() / len(batch)).backward()
                optimiser.step()
        return model

    for one, two in zip(train(1).parameters(), train(2).parameters(), strict=True):
        torch.testing.assert_close(one, two)


def all_fail() -> None:
    with replicated(3) as ranks:
        ranks.sum(torch.zeros(1))
        raise BadDataError("all see it", "Nothing.")


def one_is_killed() -> None:
    with replicated(2) as ranks:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.any(False)


def one_fails() -> None:
    with replicated(3) as ranks:
        if ranks.rank == 1:
            raise BadDataError("only here", "Nothing.")
        ranks.any(False)


def test_an_error_of_all_ends_all() -> None:
    with pytest.raises(BadDataError):
        all_fail()


@pytest.mark.parametrize("loss", [one_is_killed, one_fails])
def test_a_process_that_is_lost_is_noticed_at_once(loss: Callable[[], None]) -> None:
    with pytest.raises(TryAgainError, match="lost"):
        loss()


def test_threads_are_as_before() -> None:
    before, threads = torch.get_num_threads(), 2
    try:
        torch.set_num_threads(threads)
        with replicated(2):
            inside = torch.get_num_threads()
        assert (inside, torch.get_num_threads()) == (1, threads)
    finally:
        torch.set_num_threads(before)


def test_only_a_small_model_is_replicated() -> None:
    small, large = nn.Linear(8, 8), nn.Linear(SMALL_BYTES // 4096, 1100)
    assert (processes_for(small, 2), processes_for(large, 2)) == (2, 1)
    assert processes_for(small.to("meta"), 2) == 1
