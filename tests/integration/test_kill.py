"""kill -9 at random moments, resume each time: the final digests are those of a run that was never touched."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.kit import local_runs as runs


@pytest.fixture
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("untouched")
    manifest = request.param(folder)
    runs.finish(manifest, folder / "out")
    return manifest, runs.ledger(folder / "out")


@pytest.mark.parametrize(
    ("untouched", "kills"),
    [(runs.write_smoke, 4), pytest.param(runs.write_run, 50, marks=pytest.mark.slow)],
    indirect=["untouched"],
    ids=["one iteration, killed 4 times", "two iterations, killed 50 times"],
)
def test_a_run_killed_at_random_moments_ends_with_the_same_digests(untouched, tmp_path: Path, kills: int) -> None:
    manifest, expected = untouched
    moments = random.Random(kills)
    survived = 0
    while survived < kills:
        process = runs.start(manifest, tmp_path / "out")
        try:
            output, _ = process.communicate(timeout=moments.uniform(0.5, 14))
        except subprocess.TimeoutExpired:
            runs.kill(process)
            survived += 1
        else:
            assert process.returncode == 0, output
            assert runs.ledger(tmp_path / "out") == expected
            if survived < kills:  # ended before it was killed often enough: begin another one
                (tmp_path / "out").rename(tmp_path / f"out-{survived}")
    runs.finish(manifest, tmp_path / "out")
    assert runs.ledger(tmp_path / "out") == expected
