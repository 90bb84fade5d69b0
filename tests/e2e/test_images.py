"""What is in the images, asked in pods as strict as those of a run: restricted, with a read-only file system."""

import json
from typing import Any

import pytest

from .kube import Kube, until
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_PROGRAM = """
import importlib.util, json, os, shutil
def writable(folder):
    try:
        open(os.path.join(folder, "probe"), "w").close()
        return True
    except OSError:
        return False
tools = ("pip", "pip3", "gcc", "cc", "c++", "make", "git", "curl", "wget")
modules = ("pip", "setuptools", "ensurepip", "torch", "vllm", "kopf", "ippo_operator", "ippo_trainer")
print(json.dumps({
    "user": os.getuid(),
    "writable": [folder for folder in ("/", "/opt/ippo", "/usr", "/tmp", os.getcwd()) if writable(folder)],
    "tools": [name for name in tools if shutil.which(name)],
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "programs": [name for name in ("ippo", "ippo-operator", "ippo-stage", "ippo-serve") if shutil.which(name)],
}))
"""


@pytest.fixture(scope="module")
def operator() -> None:
    """Nothing is to be reconciled here."""


def ask(kube: Kube, namespace: str, name: str, image: str) -> dict[str, Any]:
    """What a program in a pod of that image finds."""
    container = {
        "name": "ask",
        "image": image,
        "command": ["python", "-c", _PROGRAM],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    where = {"name": name, "namespace": namespace}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": where, "spec": spec})
    ended = {"Succeeded", "Failed"}
    until(lambda: kube.get("pod", namespace, name)["status"]["phase"] in ended, f"{name} has ended", every=0.5)
    said = kube.kubectl("logs", name, "-n", namespace)
    assert kube.get("pod", namespace, name)["status"]["phase"] == "Succeeded", said
    found: dict[str, Any] = json.loads(said)
    return found


def test_the_operators_image(kube: Kube, runs: Runs) -> None:
    found = ask(kube, runs.namespace, "operator", kube.place.operator_image)
    assert found == {
        "user": 65532,
        "writable": [],
        "tools": [],
        "modules": ["kopf", "ippo_operator", "ippo_trainer"],
        "programs": ["ippo", "ippo-operator", "ippo-stage", "ippo-serve"],
    }


def test_the_trainers_image(kube: Kube, runs: Runs) -> None:
    found = ask(kube, runs.namespace, "trainer", kube.place.trainer_image)
    assert found["user"] == 65532
    assert found["writable"] == found["tools"] == []
    assert set(found["modules"]) - {"setuptools"} == {"torch", "ippo_operator", "ippo_trainer"}, (
        "torch needs setuptools"
    )
    assert {"ippo-stage", "ippo-serve"} <= set(found["programs"])
