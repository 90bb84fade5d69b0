"""Inputs that no attempt could use: the run stalls at the first one and says what to do."""

import json
import tempfile
from typing import Any

import pytest

from . import artifacts
from .kube import condition
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

MEBIBYTE = 1 << 20


def put_model(s3: Any, bucket: str, prefix: str, size: int) -> str:
    """A model's folder with weights of so many bytes that are all zero; its address."""
    s3.put_object(Bucket=bucket, Key=f"{prefix}/config.json", Body=json.dumps({"model_type": "llama"}).encode())
    with tempfile.TemporaryFile() as weights:
        weights.truncate(size)
        s3.put_object(Bucket=bucket, Key=f"{prefix}/model.safetensors", Body=weights)
    return f"s3://{bucket}/{prefix}"


def test_a_model_that_is_too_large_for_the_pod(runs: Runs, bucket: str) -> None:
    """Training holds four times its weights, which is all that the container has: known before the download."""
    base = put_model(artifacts.client(runs.kube.place.store), bucket, "large-model", 192 * MEBIBYTE)
    small_pod = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "768Mi"}}
    runs.create(
        "large",
        pods={"warmStart": {"resources": small_pod}},
        policy={"base": base, "maxPromptTokens": 256},
    )
    run = runs.wait("large", "Stalled")
    _, reason, message = condition(run, "Stalled")
    assert reason == "InvalidData"
    assert f"no room for policy.base {base} (192 MiB): warm-start needs at least" in message
    assert "this container or machine has 768 MiB" in message
    assert "Raise spec.pods.warmStart.resources.limits.memory" in message
    failure = run["status"]["lastFailure"]
    assert (failure["stage"], failure["kind"], failure["exitCode"]) == ("warm-start", "Data", 65)
    assert failure["message"] in message, "the pod told it itself"
    assert run["status"]["attempt"] == 1
    assert not [path for path in runs.published("large") if "/checkpoint/" not in path], "nothing was made"
