"""Logs that the benchmark of a log writes: each kind can be read, and is what it says."""

import json
import sys
from pathlib import Path

import pytest
from ippo_trainer.data.logs import read_log

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import from_log


@pytest.mark.parametrize("kind", from_log.KINDS)
def test_each_kind_of_log_can_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in from_log.export(kind, 0, 200)))
    log = read_log(path)
    others = sum(each.turns[0].writer == "night shift" for each in log)
    assert len(log) == 200
    assert (0.2 < sum(each.censored for each in log) / 200 < 0.4) == (kind == "censored")
    assert (0.2 < others / 200 < 0.45) == (kind == "mixed")
    assert from_log.manifest(path, kind, 0, [])["spec"]["collect"]["history"]["conversations"].endswith("log.jsonl")
