"""New policies and broken servers while somebody asks: no request fails."""

from typing import Any

import pytest

from .kube import condition, until
from .load import Load
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
SERVE = {"engine": "Transformers", "progressDeadlineSeconds": 60}


def serving(runs: Runs, name: str) -> dict[str, Any]:
    found: dict[str, Any] = runs.get(name)["status"].get("serving") or {}
    return found


def test_a_roll_out_and_a_roll_back_fail_no_request(runs: Runs) -> None:
    runs.create("serves", serve=SERVE | {"progressDeadlineSeconds": 600})
    until(lambda: serving(runs, "serves").get("active"), "the warm start is served", 900)
    assert serving(runs, "serves")["active"]["iteration"] == 0
    with Load(runs, "serves") as load:
        run = runs.wait("serves", "Succeeded")
        assert run["status"]["iterations"][-1]["promoted"] is True
        active = run["status"]["serving"]["active"]
        assert (active["iteration"], active["digest"]) == (1, run["status"]["policy"]["artifact"]["digest"])
        assert condition(run, "Ready")[0] == "True"
        load.more()

        image = runs.kube.place.trainer_image
        rolled_back(runs, active, pods={"serve": {"image": f"{image}-broken", "imagePullPolicy": "Never"}})
        load.more()
        told = rolled_back(runs, active, pods={"serve": {"image": image, "imagePullPolicy": None}}, engine="VLLM")
        assert "Raise spec.pods.serve.resources.limits.memory" in told, "servers that start and never get ready"
        load.more()

        runs.patch("serves", serve=SERVE, pods={"serve": None})
        until(lambda: condition(runs.get("serves"), "Ready")[0] == "True", "servers as the spec asks for", 300)
        assert load.errors() == []


def rolled_back(runs: Runs, active: dict[str, Any], pods: dict[str, Any], **serve: Any) -> str:
    """Changes the servers to some that do not work, and waits until the last good ones are back; what the run says."""
    runs.patch("serves", serve=SERVE | serve, pods=pods)
    generation = runs.get("serves")["metadata"]["generation"]
    until(lambda: runs.get("serves")["status"]["observedGeneration"] == generation, "the operator has seen the change")
    run = runs.wait("serves", "Stalled", "RolledBack")
    assert condition(run, "Succeeded")[0] == "True"
    assert condition(run, "Ready")[0] == "False"
    assert run["status"]["serving"]["active"] == active
    return condition(run, "Stalled")[2]
