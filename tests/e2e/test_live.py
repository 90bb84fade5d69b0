"""The live loop in real pods: a shop over HTTP, gateway, bucket, collect, fit-q, improve, an A/B test, a decision.
A gateway is killed in the middle."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.data.turns import read_turns

from tests.kit.doc_pages import ROOT

from . import artifacts
from .kube import MINUTES, Object, condition, until
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAME = "tea"
SHOP, SHOP_FOLDER = "shop.py", "/shop"
TEA = ["--option", "asked=0.8", "--option", "unasked=0.05"]
SPEC: dict[str, Any] = {
    "seed": 3,
    "threads": 1,
    "iterations": {"max": 1},
    "policy": {"base": "tiny:d32-l1", "maxPromptTokens": 128, "systemPrompt": "You sell tea."},
    "warmStart": {"conversations": f"file://{SHOP_FOLDER}/log.jsonl", "batchSize": 16, "learningRate": "0.006"},
    "collect": {"logged": {"minConversations": 600, "minOutcomes": 30, "idle": "5m", "outcomeWindow": "5m"}},
    "gateway": {
        "personas": [{"name": "bold", "share": "0.1", "temperature": "2", "minP": "0.02"}],
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


class Shop:
    """Customers and the business, in a Job of the run's namespace. Use as a context manager."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def prepare(self, folder: Path) -> None:
        """Its program, its environment and the log that the run begins with, as a ConfigMap."""
        log, environment = folder / "log.jsonl", ROOT / "examples" / "my_environment.py"
        shop = ROOT / "examples" / "shop" / SHOP
        command = [sys.executable, str(shop), "--log", str(log), "--conversations", "1200"]
        command += ["--environment", f"{environment}:TeaShop", *TEA]
        subprocess.run(command, check=True, capture_output=True)
        files = {path.name: path.read_text() for path in (log, environment, shop)}
        where = {"name": "shop", "namespace": self._runs.namespace}
        self._runs.kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": files})

    def __enter__(self) -> None:
        command = ["python", f"{SHOP_FOLDER}/{SHOP}", "--url", f"http://{NAME}-gateway:8080", "--forever"]
        command += ["--environment", f"{SHOP_FOLDER}/my_environment.py:TeaShop", *TEA, "--concurrency", "16"]
        container = {
            "name": "shop",
            "image": self._runs.kube.place.trainer_image,
            "command": command,
            "volumeMounts": [{"name": "shop", "mountPath": SHOP_FOLDER}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "resources": {"limits": {"memory": "512Mi"}},
        }
        pod = {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "shop", "configMap": {"name": "shop"}}],
        }
        self._runs.kube.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "shop", "namespace": self._runs.namespace},
                "spec": {"template": {"spec": pod}, "backoffLimit": 3},
            }
        )

    def __exit__(self, *_: object) -> None:
        self._runs.kube.call("kubectl", "delete", "job", "shop", "-n", self._runs.namespace)


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


def events_of(published: artifacts.Files) -> Iterator[dict[str, Any]]:
    """What is in the segments of the live log."""
    for path, body in sorted(published.items()):
        if path.startswith("live/") and path.endswith(".jsonl.gz"):
            yield from map(json.loads, gzip.decompress(body).splitlines())


def test_customers_make_a_policy_that_an_a_b_test_decides_on(runs: Runs, tmp_path: Path) -> None:
    shop = Shop(runs)
    shop.prepare(tmp_path)
    files = [{"name": "shop", "mountPath": SHOP_FOLDER, "configMap": {"name": "shop"}}]
    runs.create(NAME, pods={"common": {"volumes": files}}, **SPEC)
    gateway = f"{NAME}-gateway"
    until(lambda: runs.kube.find("deployment", runs.namespace, gateway), "there is a gateway", 15 * MINUTES)
    with shop:
        until(lambda: counts(runs) > 100, f"conversations are counted\n{runs.get(NAME)['status']}", 10 * MINUTES)
        assert condition(runs.get(NAME), "Reconciling")[1] == "WaitingForConversations"
        assert row(runs)["iteration"] == 0  # nothing runs meanwhile
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
    events = list(events_of(published))
    assert len(events) == len({event["event_id"] for event in events})
    asked = {(event["arm"], event["suggestion"]["policy_digest"]) for event in events if event["kind"] == "suggestion"}
    assert ("candidate", candidate_digest) in asked
    assert ("active", before) in asked
    assert {digest for _, digest in asked} == {before, candidate_digest}

    # Digests lead from the candidate to the data, and from the data to conversations of the policy before it.
    [line] = artifacts.ledger(published)
    assert line["inputs"]["candidate"] == candidate_digest
    assert line["inputs"]["data"] == made["collect"]["digest"]
    [data] = [
        body for path, body in published.items() if path.startswith(made["collect"]["key"]) and ".parquet" in path
    ]
    (tmp_path / "turns.parquet").write_bytes(data)
    conversations = read_turns(tmp_path / "turns.parquet")
    assert len(conversations) >= 600
    answers: dict[str, set[str]] = {}
    for event in events:
        if event["kind"] == "suggestion":
            answers.setdefault(event["conversation_id"], set()).add(event["suggestion"]["policy_digest"])
    assert all(answers[conversation.id] == {before} for conversation in conversations)
