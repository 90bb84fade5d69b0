"""A group of processes for tests: of this one only, with all that sharding does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ippo_trainer.training.distributed import ManyRanks

_CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
)


@pytest.fixture(params=["cpu", _CUDA])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManyRanks]:
    """By gloo, and by nccl where there is a GPU."""
    device = torch.device(request.param)
    backend = "gloo" if request.param == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield ManyRanks(device)
    dist.destroy_process_group()
