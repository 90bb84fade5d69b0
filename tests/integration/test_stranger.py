"""A stranger's simulator and chat log run through the whole loop without touching the package."""

from pathlib import Path

from tests.kit import florist
from tests.kit import local_runs as runs


def test_a_strangers_simulator_and_chat_log_run_through_the_loop(tmp_path: Path) -> None:
    environment = florist.environment(tmp_path, sale="0.4")
    manifest = runs.write_run(
        tmp_path,
        warmStart={
            "conversations": florist.chat_log(tmp_path / "log.jsonl", 1000),
            "epochs": 6,
            "batchSize": 16,
            "learningRate": "0.006",
        },
        collect={"simulate": {"environment": environment, "conversations": 1000, "parallelism": 2}},
        fitQ={"epochs": 5, "batchSize": 16},
    )
    runs.finish(manifest, tmp_path / "out")
    status = runs.status(tmp_path / "out")
    assert status["phase"] == "Succeeded"
    assert [row["iteration"] for row in status["iterations"]] == [1, 2]
    assert all(row["policyDigest"].startswith("sha256:") for row in status["iterations"])
    first, last = runs.ledger(tmp_path / "out")
    assert last["metrics"]["success"] > first["metrics"]["successCurrent"]
