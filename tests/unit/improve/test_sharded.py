"""An improvement on sharded parameters learns what one on whole ones does; the group has one process here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.improve.improvement import Improvement
from ippo_trainer.training import checkpoint
from ippo_trainer.training.distributed import ALONE, ManyRanks, Ranks, whole


def improvement(toy: Any, ranks: Ranks, device: torch.device) -> Improvement:
    toy.policy.to(device), toy.q.to(device)
    run: Improvement = toy.improvement(range(4), ranks)
    for module in (run.task.reference, toy.q):
        ranks.shard(module)
    return run


def weights(run: Improvement) -> Any:
    return torch.cat([whole(value.detach()).flatten() for value in run.task.policy.parameters()])


def never() -> None:
    """After every step: nothing."""


def test_sharded_parameters_learn_what_whole_ones_do(group: ManyRanks, make_toy: Any) -> None:
    plain = improvement(make_toy(), ALONE, group.device)
    plain.run(never)
    sharded = improvement(make_toy(), group, group.device)
    sharded.run(never)
    assert (weights(plain) - weights(sharded)).abs().max() < 1e-5
    assert plain.position.end == sharded.position.end
    for row, same in zip(plain.position.curves, sharded.position.curves, strict=True):
        assert row == pytest.approx(same, abs=1e-4, rel=1e-3)


def test_a_checkpoint_does_not_know_whether_parameters_were_sharded(
    group: ManyRanks, make_toy: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    steps: list[int] = []
    run = improvement(make_toy(), group, group.device)

    class EnoughError(Exception):
        """Stops the run."""

    def after_step() -> None:
        steps.append(1)
        if len(steps) == 4:
            checkpoint.save(folder, run, group)
            raise EnoughError

    with pytest.raises(EnoughError):
        run.run(after_step)
    ends = []
    for ranks in (ALONE, group):
        resumed = improvement(make_toy(), ranks, group.device)
        checkpoint.load(folder, resumed, ranks)
        assert resumed.steps == 4
        resumed.run(never)
        ends.append(weights(resumed))
    assert (ends[0] - ends[1]).abs().max() < 1e-5
