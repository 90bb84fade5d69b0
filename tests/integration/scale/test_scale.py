"""A hundred runs at once on real controllers: right ends, and costs that do not depend on how busy the machine is.

Times do depend on it; `tests/benchmarks/bench_scale.py` measures them, with more runs.
"""

import asyncio
import os
from pathlib import Path

import pytest

from .cluster import HINT, find_kubeconfig
from .scene import STAGES, measure, share

pytestmark = pytest.mark.slow
RUNS = int(os.environ.get("IPPO_SCALE_RUNS", "100"))


@pytest.fixture
def kubeconfig() -> Path:
    path = find_kubeconfig()
    if path is None:
        pytest.skip(HINT)
    return path


@pytest.mark.timeout(1800)
def test_many_runs_at_once_end_right_and_cheaply(kubeconfig: Path, tmp_path: Path) -> None:
    figures = asyncio.run(measure(kubeconfig, tmp_path, RUNS, mean=20.0, idle=60.0))
    assert figures.wrong == []
    assert figures.jobs == RUNS * STAGES
    assert len(figures.after_job) == RUNS * (STAGES - 1)
    assert figures.writes_per_stage <= 6
    assert figures.reads_per_stage <= 24
    assert figures.memory_peak <= 180
    # A minute has one check that the watches miss nothing, which lists the runs' metadata in pages of 100.
    assert figures.idle.keys() <= {"GET iterativepporuns"}
    assert figures.idle.get("GET iterativepporuns", 0) <= 2 * (1 + RUNS // 100)
    # Against the API server's own speed in the same minutes: reads and writes of a step are ten requests, one by one.
    assert share(figures.after_job, 0.5) <= max(2.0, 30 * share(figures.write, 0.5))
