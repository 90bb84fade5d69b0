"""What several processes are built on, with a group of one here; `stages/test_improve_ranks.py` has groups of two."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.ppo import distributed
from ippo_trainer.ppo.distributed import ALONE, Ranks, World, joined, whole
from ippo_trainer.ppo.heldout import HeldOut
from ippo_trainer.ppo.operators import find
from ippo_trainer.ppo.trainer import Improvement, frozen_copy

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
)


@dataclass
class Piece:
    name: str
    owner: int


@pytest.fixture(params=["cpu", CUDA])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ranks]:
    """A group of this process only: gloo, and nccl where there is a GPU."""
    device = torch.device(request.param)
    backend = "gloo" if request.param == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield Ranks(device)
    dist.destroy_process_group()


def improvement(toy: Any, work: Path, world: World, device: torch.device) -> Improvement:
    toy.policy.to(device), toy.q.to(device)
    toy.sampler.world = world
    reference = frozen_copy(toy.policy)
    operator = find("PPO")(toy.policy, toy.q, toy.settings, world)
    for module in (reference, toy.q):
        world.shard(module)
    probe = HeldOut(toy.sampler, toy.states, range(4), 4, "probe")
    parts = (toy.sampler, toy.states, probe, toy.settings, work)
    return Improvement(toy.policy, operator, *parts, world=world, reference=reference)


def weights(run: Improvement) -> Any:
    return torch.cat([whole(value.detach()).flatten() for value in run.policy.parameters()])


def never() -> None:
    """After every step: nothing."""


def test_sharded_parameters_learn_what_whole_ones_do(group: Ranks, make_toy: Any, work: Path) -> None:
    plain = improvement(make_toy(), work, ALONE, group.device)
    plain.run(never)
    sharded = improvement(make_toy(), work, group, group.device)
    sharded.run(never)
    assert (weights(plain) - weights(sharded)).abs().max() < 1e-5
    assert plain.position.ended == sharded.position.ended
    for row, same in zip(plain.position.curves, sharded.position.curves, strict=True):
        assert row == pytest.approx(same, abs=1e-4, rel=1e-3)


def test_a_checkpoint_does_not_know_whether_parameters_were_sharded(
    group: Ranks, make_toy: Any, work: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    made: list[int] = []
    run = improvement(make_toy(), work, group, group.device)

    class EnoughError(Exception):
        """Stops the run."""

    def after_step() -> None:
        made.append(1)
        if len(made) == 4:
            run.save(folder)
            raise EnoughError

    with pytest.raises(EnoughError):
        run.run(after_step)
    ends = []
    for world in (ALONE, group):
        resumed = improvement(make_toy(), work, world, group.device)
        resumed.load(folder)
        assert resumed.steps == 4
        resumed.run(never)
        ends.append(weights(resumed))
    assert (ends[0] - ends[1]).abs().max() < 1e-5


def test_small_things_are_agreed_on(group: Ranks) -> None:
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
        member = Ranks.__new__(Ranks)
        member.rank, member.size = rank, 3
        shares.append([(piece.name, counts) for piece, counts in member.share(pieces)])
    assert shares == [
        [("a", True), ("b", True)],
        [("c", True), ("c", False)],
        [("a", False), ("a", False)],
    ]
    assert [piece.name for piece, _ in ALONE.share(pieces)] == ["a", "b", "c"]


def test_a_process_that_nobody_launched_is_alone() -> None:
    with joined(torch.device("cpu")) as world:
        assert world is ALONE


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
