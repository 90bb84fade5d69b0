"""Servers with vLLM, on a CPU here: they answer what the others do, and a promotion loses no request."""

import json
from typing import Any

import pytest

from .kube import Kube, condition, until
from .load import Load
from .place import ARCHIVES, NoPlaceError, version
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
RESOURCES = {"requests": {"cpu": "200m", "memory": "3Gi"}, "limits": {"cpu": "1", "memory": "7Gi"}}
"""One CPU: vLLM under load takes all that there are, and the stages of the run would wait."""


@pytest.fixture(scope="module")
def image(kube: Kube) -> str:
    try:
        name = f"ippo-trainer:{version()}-cpu-vllm"
        return kube.place.image("IPPO_E2E_VLLM_IMAGE", ARCHIVES / "trainer-cpu-vllm.tar", name)
    except NoPlaceError as error:
        pytest.skip(str(error))


def test_each_policy_is_served_by_vllm(runs: Runs, image: str) -> None:
    serve = {"engine": "VLLM", "progressDeadlineSeconds": 900}
    runs.create("vllm", serve=serve, pods={"serve": {"image": image, "resources": RESOURCES}})
    first = until(lambda: served(runs, 0), "the warm start is served", 900)
    with Load(runs, "vllm") as load:
        run = runs.wait("vllm", "Succeeded")
        assert run["status"]["iterations"][-1]["promoted"] is True
        until(lambda: condition(runs.get("vllm"), "Ready")[0] == "True", "the promoted policy is served", 900)
        load.more()
        assert load.errors() == []
    assert run["status"]["policy"]["artifact"]["digest"] != first
    assert served(runs, 1) == run["status"]["policy"]["artifact"]["digest"]

    models = json.loads(runs.kube.kubectl("get", "--raw", path(runs, "models")))["data"]
    assert [model["id"] for model in models] == [served(runs, 1), "vllm"]
    whole = json.loads(ask(runs, seed=3))["choices"][0]
    assert whole["finish_reason"] == "stop"
    assert whole["message"]["content"] or whole["abstained"]
    assert whole["message"]["content"] == "".join(pieces(ask(runs, seed=3, stream=True)))


def served(runs: Runs, iteration: int) -> str:
    """The digest of the policy that is served; empty unless it is that iteration's."""
    active = (runs.get("vllm")["status"].get("serving") or {}).get("active") or {}
    return str(active["digest"]) if active.get("iteration") == iteration else ""


def path(runs: Runs, what: str) -> str:
    """Of the run's servers, by way of the API server."""
    return f"/api/v1/namespaces/{runs.namespace}/services/vllm:8000/proxy/v1/{what}"


def ask(runs: Runs, **wishes: Any) -> str:
    """The answer to a customer."""
    body = {"model": "vllm", "messages": [{"role": "user", "content": "hello i saw your shop"}], **wishes}
    return runs.kube.kubectl("create", "--raw", path(runs, "chat/completions"), "-f", "-", text=json.dumps(body))


def pieces(stream: str) -> list[str]:
    """Of the text, from server-sent events."""
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
