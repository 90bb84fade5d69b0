"""The live loop in real pods: a shop over HTTP, gateway, bucket, collect, fit-q, improve, an A/B test, a decision.
A gateway is killed in the middle."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.data.turns import read_turns

from . import artifacts
from .kube import MINUTES, Object, condition, until
from .runs import Runs
from .shop import FOLDER, TEA, Shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAME = "tea"
SPEC: dict[str, Any] = {
    "seed": 3,
    "threads": 1,
    "iterations": {"max": 1},
    "policy": {"base": "tiny:d32-l1", "maxPromptTokens": 128, "systemPrompt": "You sell tea."},
    "warmStart": {"conversations": f"file://{FOLDER}/log.jsonl", "batchSize": 16, "learningRate": "0.006"},
    "collect": {
        "logged": {
            "minConversations": 600,
            "minOutcomes": 30,
            "idle": "5m",
            "outcomeWindow": "5m",
            "personas": [{"name": "bold", "share": "0.1", "temperature": "2", "minP": "0.02"}],
        }
    },
    "gateway": {
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "384Mi"}},
    },
    "fitQ": {"epochs": 4, "batchSize": 16},
    "improve": {"updates": 10, "criticWarmupUpdates": 4},
    "evaluate": {},
    "serve": {
        "engine": "Transformers",
        "strategy": "Canary",
        "canary": {"share": "0.5", "minConversations": 50, "maxConversations": 400},
    },
}


def row(runs: Runs) -> Object:
    """Of the status, the latest iteration."""
    rows = runs.get(NAME).get("status", {}).get("iterations") or [{}]
    return dict(rows[-1])


def counts(runs: Runs) -> int:
    """Conversations of the policy that the gateway told the operator of."""
    return int((runs.get(NAME).get("status", {}).get("live") or {}).get("conversations", 0))


def candidate_is_gone(runs: Runs) -> bool:
    return runs.kube.find("deployment", runs.namespace, f"{NAME}-candidate") is None


def kill_a_gateway(runs: Runs) -> None:
    """Its process gets no chance to say anything; the events in its journal are the next one's."""
    [pod] = runs.kube.list("pods", runs.namespace, "app.kubernetes.io/component=gateway")
    name = pod["metadata"]["name"]
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    processes = subprocess.run(["pgrep", "-f", "ippo-gateway --routes"], capture_output=True, text=True)
    if runs.kube.place.lab is not None and processes.stdout.split():
        for process in processes.stdout.split():
            os.kill(int(process), 9)

        def started_again() -> bool:
            status = runs.kube.get("pod", runs.namespace, name)["status"]["containerStatuses"][0]
            return bool(status["restartCount"] > restarts and status["ready"])

        until(started_again, "the gateway is there again", 5 * MINUTES)
    else:
        runs.kube.kubectl("delete", "pod", name, "-n", runs.namespace)


def test_customers_make_a_policy_that_an_a_b_test_decides_on(runs: Runs, tmp_path: Path) -> None:
    shop, log = Shop(runs, NAME, *TEA), tmp_path / "log.jsonl"
    shop.log(log, 1200)
    shop.prepare(log)
    files = [{"name": "shop", "mountPath": FOLDER, "configMap": {"name": "shop"}}]
    runs.create(NAME, pods={"common": {"volumes": files}}, **SPEC)
    gateway = f"{NAME}-gateway"
    until(lambda: runs.kube.find("deployment", runs.namespace, gateway), "there is a gateway", 15 * MINUTES)
    with shop.open(300):  # fewer than the run waits for
        until(lambda: counts(runs) > 100, f"conversations are counted\n{runs.get(NAME)['status']}", 10 * MINUTES)
        assert condition(runs.get(NAME), "Reconciling")[1] == "WaitingForConversations"
        assert row(runs)["iteration"] == 0  # nothing runs meanwhile
    with shop.open():
        kill_a_gateway(runs)
        until(lambda: (row(runs).get("canary") or {}).get("startedAt"), "the A/B test begins", 20 * MINUTES)
        candidate = runs.kube.get("deployment", runs.namespace, f"{NAME}-candidate")
        assert candidate["status"]["availableReplicas"] >= 1
        runs.wait(NAME, "Succeeded", seconds=15 * MINUTES)
    status = runs.get(NAME)["status"]
    start, first = status["iterations"]
    test = first["canary"]
    assert test["candidate"]["conversations"] >= 50, test
    assert first["promoted"] == (test["outcome"] == "Promote"), test
    made = {stage["stage"]: stage["artifact"] for line in (start, first) for stage in line["stages"]}
    before, candidate_digest = made["warm-start"]["digest"], made["improve"]["digest"]
    assert status["policy"]["artifact"]["digest"] == (candidate_digest if first["promoted"] else before)

    until(lambda: candidate_is_gone(runs), "the candidate's servers go once nobody asks them", 5 * MINUTES)
    until(lambda: condition(runs.get(NAME), "Ready")[0] == "True", "the policy of the end is served", 5 * MINUTES)

    published = runs.published(NAME)
    artifacts.digests(published)
    events = list(artifacts.live_events(published))
    assert len(events) == len({event["event_id"] for event in events})
    asked = {(event["arm"], event["suggestion"]["policy_digest"]) for event in events if event["kind"] == "suggestion"}
    assert ("candidate", candidate_digest) in asked
    assert ("active", before) in asked
    assert {digest for _, digest in asked} == {before, candidate_digest}

    # Digests lead from the candidate to the data, and from the data to conversations of the policy before it.
    [line] = artifacts.ledger(published)
    assert line["inputs"]["candidate"] == candidate_digest
    assert line["inputs"]["data"] == made["collect"]["digest"]
    data = artifacts.file_of(published, made["collect"]["key"], ".parquet")
    (tmp_path / "turns.parquet").write_bytes(data)
    conversations = read_turns(tmp_path / "turns.parquet")
    assert len(conversations) >= 600
    assert not artifacts.untraced(conversations, before, artifacts.answers(published))
