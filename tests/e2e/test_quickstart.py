"""docs/tutorials/cluster.md, command by command, and what must be true at its end."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from . import artifacts, page
from .kube import Kube, condition, story
from .place import ROOT, Place

NAMESPACE, RUN = "quickstart", "sr-funnel"
REPORT = ROOT / "sr-funnel-report.html"
SECONDS = 1500.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(SECONDS + 300)]


@pytest.fixture(scope="module")
def done(kube: Kube, cluster: Place, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the blocks of each section printed; the last section, which cleans up, runs after the tests."""
    settings = {
        "OPERATOR_IMAGE": cluster.operator_image,
        "TRAINER_IMAGE": cluster.trainer_image,
        "S3_BUCKET": bucket,
        "S3_ENDPOINT": cluster.store.endpoint,
        "S3_ACCESS_KEY": cluster.store.access_key,
        "S3_SECRET_KEY": cluster.store.secret_key,
    }
    first, *others, last = page.blocks()
    chosen = [page.with_settings(first, settings), *others]
    folder = tmp_path_factory.mktemp("quickstart")
    try:
        try:
            printed = page.carry_out(kube, chosen, folder, SECONDS)
        except BaseException:
            print(story(kube, NAMESPACE, RUN))
            raise
        told: dict[str, str] = {}
        for block, text in zip(chosen, printed, strict=True):
            told[block.section] = f"{told.get(block.section, '')}{text}\n"
        yield told
    finally:
        REPORT.unlink(missing_ok=True)
        page.carry_out(kube, [last], folder, 300)


@pytest.fixture
def run(kube: Kube, done: dict[str, str]) -> dict[str, Any]:
    return kube.get("ippo", NAMESPACE, RUN)


@pytest.fixture(scope="module")
def files(kube: Kube, cluster: Place, bucket: str, done: dict[str, str]) -> artifacts.Files:
    uid = kube.get("ippo", NAMESPACE, RUN)["metadata"]["uid"]
    return artifacts.in_bucket(cluster.store, bucket, f"{RUN}/{uid}")


def test_the_run_succeeds_and_is_ready(run: dict[str, Any]) -> None:
    assert condition(run, "Succeeded")[:2] == ("True", "Completed")
    assert condition(run, "Ready")[0] == "True"
    assert condition(run, "Stalled")[0] == "False"


def test_no_stage_ran_twice(run: dict[str, Any]) -> None:
    stages = [stage for iteration in run["status"]["iterations"] for stage in iteration["stages"]]
    assert [(stage["stage"], stage["attempts"]) for stage in stages] == [
        ("warm-start", 1),
        ("collect", 1),
        ("fit-q", 1),
        ("improve", 1),
        ("evaluate", 1),
    ]


def test_the_exact_value_rises_and_the_candidate_is_promoted(run: dict[str, Any]) -> None:
    last = run["status"]["iterations"][-1]
    assert last["promoted"] is True
    assert last["metrics"]["exactValue"] > 1.5 * last["metrics"]["exactValueCurrent"]


def test_all_artifacts_verify(files: artifacts.Files, run: dict[str, Any]) -> None:
    known = set(artifacts.digests(files).values())
    stages = [stage for iteration in run["status"]["iterations"] for stage in iteration["stages"]]
    assert {stage["artifact"]["digest"].removeprefix("sha256:") for stage in stages} <= known
    [line] = artifacts.ledger(files)
    assert line["iteration"] == 1
    assert not [name for name in files if "/checkpoint/" in name], "checkpoints go with their stage"


def test_what_is_served_is_what_was_promoted(done: dict[str, str], run: dict[str, Any]) -> None:
    promoted = run["status"]["policy"]["artifact"]["digest"]
    assert run["status"]["serving"]["active"]["digest"] == promoted
    models, answer = (json.loads(line) for line in done["6. Talk to it"].splitlines() if line.startswith("{"))
    assert promoted in {model["id"] for model in models["data"]}
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] or choice["abstained"]


def test_status_logs_and_report(done: dict[str, str], run: dict[str, Any]) -> None:
    assert "Succeeded" in done["4. A run"].splitlines()[-1]
    told = done["5. What came of it"]
    assert f"{RUN}: Succeeded" in told
    assert "improve of iteration 1, attempt 1" in told
    text = REPORT.read_text()
    assert run["status"]["policy"]["artifact"]["digest"].removeprefix("sha256:")[:16] in text


def test_secrets_are_nowhere_to_be_read(kube: Kube, cluster: Place, files: artifacts.Files) -> None:
    secret = cluster.store.secret_key
    shown = kube.kubectl("get", "ippo,jobs,pods,configmaps,deployments,events", "-n", NAMESPACE, "-o", "json")
    logs = kube.kubectl("logs", "-n", "ippo-system", "deployment/ippo-operator")
    assert secret not in shown
    assert secret not in logs
    assert not [name for name, body in files.items() if secret.encode() in body]
