"""The live loop on one machine: a shop over HTTP, gateway, store, collect, fit-q, improve, an A/B test, a decision."""

import gzip
import json
import re
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_trainer.data.turns import read_turns

from tests.kit import local_runs
from tests.kit.doc_pages import ROOT
from tests.kit.ports import free_port
from tests.kit.waiting import until

SHOP = [sys.executable, str(ROOT / "examples" / "shop" / "shop.py")]
TEA = [
    "--environment",
    f"{ROOT}/examples/my_environment.py:TeaShop",
    "--option",
    "asked=0.8",
    "--option",
    "unasked=0.05",
]
CHAT = [sys.executable, "-m", "ippo_operator.cli.main", "chat"]
pytestmark = pytest.mark.slow


def write_manifest(folder: Path, port: int) -> Path:
    """A small live run of one iteration, and the log that it begins with."""
    log = folder / "log.jsonl"
    subprocess.run([*SHOP, "--log", str(log), "--conversations", "1500", *TEA], check=True, capture_output=True)
    spec: dict[str, Any] = {
        "seed": 3,
        "threads": 1,
        "iterations": {"max": 1},
        "policy": {"base": "tiny:d32-l1", "maxPromptTokens": 128, "systemPrompt": "You sell tea."},
        "warmStart": {"conversations": f"file://{log}", "batchSize": 16, "learningRate": "0.006"},
        "collect": {
            "logged": {
                "minConversations": 600,
                "minOutcomes": 30,
                "idle": "5m",
                "outcomeWindow": "5m",
                "personas": [{"name": "bold", "share": "0.1", "temperature": "2", "minP": "0.02"}],
            }
        },
        "gateway": {"port": port},
        "fitQ": {"epochs": 4, "batchSize": 16},
        "improve": {"updates": 10, "criticWarmupUpdates": 4},
        "serve": {
            "engine": "Transformers",
            "strategy": "Canary",
            "canary": {"share": "0.5", "minConversations": 50, "maxConversations": 400},
        },
    }
    head = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "tea-live"}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**head, "spec": spec}))
    return path


def logged(out: Path) -> dict[str, list[dict[str, Any]]]:
    """What is in the segments, by conversation, as readers see it: the run was killed, and a client that asks again
    after a gateway's death may have its event in two segments."""
    events, ids = defaultdict(list), set()
    for segment in sorted((out / "artifacts" / "live").rglob("*.jsonl.gz")):
        for line in gzip.decompress(segment.read_bytes()).splitlines():
            event = json.loads(line)
            if event["event_id"] not in ids:
                ids.add(event["event_id"])
                events[event["conversation_id"]].append(event)
    return events


def begun(state: Path) -> int:
    """Conversations of the shop."""
    return int(json.loads(state.read_text())["0"]) if state.exists() else 0


def test_customers_over_http_make_a_policy_that_an_a_b_test_decides_on(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    manifest, state = write_manifest(tmp_path, port), tmp_path / "state.json"
    run = local_runs.start(manifest, out)
    url = f"http://localhost:{port}"
    with (tmp_path / "shop.log").open("w") as shown:
        customers = [*SHOP, "--url", url, "--forever", "--state", str(state), *TEA]
        shop = subprocess.Popen(customers, stdout=shown, stderr=shown)
    try:
        until(lambda: begun(state) >= 100 or run.poll() is not None, "customers", 120)
        local_runs.kill(run)
        run = local_runs.start(manifest, out)
        until(lambda: begun(state) >= 200 or run.poll() is not None, "customers again", 120)
        talk = subprocess.run([*CHAT, str(out)], input="hello\n\ny\n", capture_output=True, text=True)
        said, _ = run.communicate()
    finally:
        shop.send_signal(signal.SIGINT)
        shop.wait()
        run.kill()
    assert run.returncode == 0, said
    assert talk.returncode == 0, talk.stderr
    assert f"the gateway answers at {url}" in said

    status = json.loads((out / "status.json").read_text())
    start, first = status["iterations"]
    test = first["canary"]
    assert test["candidate"]["conversations"] >= 50
    assert first["promoted"] == (test["outcome"] == "Promote"), test
    made = {stage["stage"]: stage["artifact"] for row in (start, first) for stage in row["stages"]}
    before, candidate = made["warm-start"]["digest"], made["improve"]["digest"]

    events = logged(out)
    [over] = re.findall(r"^([0-9]+) conversations, ", (tmp_path / "shop.log").read_text(), re.MULTILINE)
    closed = [name for name, told in events.items() if name.startswith("shop-") and told[-1]["kind"] == "close"]
    assert len(closed) >= int(over), "what the gateway answered for before it was killed is there"
    assert any(name.startswith("chat-") for name in events)
    asked = defaultdict(set)
    for told in events.values():
        for event in told:
            if event["kind"] == "suggestion":
                asked[event["arm"]].add(event["suggestion"]["policy_digest"])
    assert asked["candidate"] == {candidate}
    assert before in asked["active"]

    # Digests lead from the candidate to the data, and from the data to conversations of the policy before it.
    [line] = local_runs.ledger(out)
    assert line["inputs"]["candidate"] == candidate
    assert line["inputs"]["policy"] == before
    assert line["inputs"]["data"] == made["collect"]["digest"]
    [conversations] = [read_turns(path) for path in (out / "artifacts" / made["collect"]["key"]).glob("*.parquet")]
    assert len(conversations) >= 600
    for conversation in conversations:
        suggestions = [each["suggestion"] for each in events[conversation.id] if each["kind"] == "suggestion"]
        assert {each["policy_digest"] for each in suggestions} == {before}
        texts = [each["suggestion"] for each in suggestions]  # one may have come after the data were taken
        assert [turn.suggestion for turn in conversation.turns] == texts[: len(conversation.turns)]
    assert {turn.behaviour for each in conversations for turn in each.turns} == {"policy", "explore"}
