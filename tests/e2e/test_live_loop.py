"""Three iterations of the live loop in real pods: customers whose optimum is known, and each policy scored exactly."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.data.turns import read_turns

from tests.kit.local_runs import EXAMPLES

from . import artifacts
from .kube import MINUTES
from .runs import Runs
from .shop import Shop

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(4 * 60 * MINUTES)]
NAME = "loop"
TABLES = EXAMPLES / "easy-customers.json"
SPEC: dict[str, Any] = {
    "seed": 0,
    "threads": 1,
    "iterations": {"max": 3},
    "policy": {"base": "tiny:d32-l1", "maxPromptTokens": 384, "systemPrompt": "You sell."},
    "collect": {
        "logged": {
            "minConversations": 3000,
            "maxConversations": 6000,
            "minOutcomes": 100,
            "personas": [{"name": "bold", "share": "0.3", "temperature": "2", "minP": "0.02"}],
        }
    },
    "fitQ": {
        "initFrom": "PreviousQ",
        "epochs": 6,
        "batchSize": 16,
        "traceLambda": "0.5",
        "onUninformative": "CollectMore",
    },
    "improve": {
        "algorithm": "MPO",
        "updates": 12,
        "batchSize": 16,
        "criticWarmupUpdates": 2,
        "learningRate": "0.002",
        "klTarget": "1.5",
        "klCoefficient": "0.01",
    },
    "evaluate": {},
    "serve": {
        "engine": "Transformers",
        "strategy": "Canary",
        "canary": {
            "share": "0.5",
            "minConversations": 200,
            "maxConversations": 4000,
            "guardRails": {"acceptance": "0.5"},
        },
    },
}
"""The settings of `tests/benchmarks/live_loop.py --easy`, with longer A/B tests: near the optimum lifts are small."""


def exact_share(published: artifacts.Files, key: str, folder: Path) -> float:
    """A policy's exact value as a share of the optimum."""
    for path, body in published.items():
        if path.startswith(f"{key}/"):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
    command = [Path(sys.executable).parent / "ippo", "exact", "--env", "sr-funnel", "--json"]
    customers = ["--horizon", "4", "--tables", TABLES, "--policy", folder / key]
    answer = json.loads(subprocess.run([*command, *customers], stdout=subprocess.PIPE, check=True).stdout)
    return float(answer["policies"][-1]["value"] / answer["optimum"])


def test_customers_make_better_and_better_policies(runs: Runs, bucket: str, tmp_path: Path) -> None:
    shop = Shop(runs, NAME, "sr-funnel", {"horizon": "4", "tables": str(TABLES)})
    log = tmp_path / "log.jsonl"
    shop.log(log, 1500)
    shop.prepare()
    artifacts.client(runs.kube.place.store).upload_file(str(log), bucket, "shop/log.jsonl")
    start = {"conversations": f"s3://{bucket}/shop/log.jsonl", "epochs": 6, "batchSize": 16, "learningRate": "0.006"}
    runs.create(NAME, warmStart=start, **SPEC)
    with shop.open():
        runs.wait(NAME, "Succeeded", seconds=3.5 * 60 * MINUTES)
    rows = runs.get(NAME)["status"]["iterations"]
    published = runs.published(NAME)
    artifacts.digests(published)
    published_as = [{stage["stage"]: stage["artifact"] for stage in row["stages"]} for row in rows]
    policies = [published_as[0]["warm-start"], *(stages["improve"] for stages in published_as[1:])]
    shares = [exact_share(published, policy["key"], tmp_path) for policy in policies]
    for number, (row, share) in enumerate(zip(rows, shares, strict=True)):
        canary = row.get("canary") or {}
        print(number, f"{share:.3f}", row.get("promoted"), canary.get("candidate"), canary.get("control"))
    deployed = [0, *(number for number, row in enumerate(rows) if row.get("promoted"))]
    served = [shares[number] for number in deployed]
    assert served == sorted(served), served
    assert served[-1] >= 0.75, served

    answers = artifacts.answers(published)
    for number in range(1, len(rows)):
        behaviour = policies[max(which for which in deployed if which < number)]
        data = artifacts.file_of(published, published_as[number]["collect"]["key"], ".parquet")
        (tmp_path / "turns.parquet").write_bytes(data)
        conversations = read_turns(tmp_path / "turns.parquet")
        assert len(conversations) >= 3000
        untraced = artifacts.untraced(conversations, behaviour["digest"], answers)
        assert not untraced, (number, behaviour["digest"], untraced[:3])
