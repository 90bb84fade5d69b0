"""A gateway with a volume in real pods: its pod is deleted by force while the bucket is away."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ippo_operator.manifests.left_journals import LEFT_JOURNAL

from . import artifacts
from .faulty_store import FaultyStore
from .kube import MINUTES, Object, condition, story, until
from .place import GATEWAY
from .runs import Runs
from .shop import FOLDER, TEA, Shop
from .test_live import SPEC

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
NAME = "kept"
CLASS = "ippo-e2e-disk"
STORAGE = "2Gi"
ASK = """
import json, sys, urllib.request

def post(path, body):
    url, kind = f"http://{sys.argv[1]}:8080{path}", {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), kind)
    return json.load(urllib.request.urlopen(asked, timeout=60))

for number in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}-{number}"
    said = {"messages": [{"role": "user", "content": "tea?"}], "metadata": {"conversation_id": name}}
    post("/v1/chat/completions", said)
    post(f"/v1/conversations/{name}/turns/0/reaction", {"reaction": "accepted"})
    post(f"/v1/conversations/{name}/close", {"outcome": True})
    print(json.dumps(name), flush=True)
"""
"""Conversations; prints the name of each whose every event was answered for."""


@pytest.fixture
def store(runs: Runs) -> Iterator[FaultyStore]:
    """The bucket's service, which can be taken away."""
    place = runs.kube.place
    if place.lab is None:
        pytest.skip("a proxy that pods reach, and a folder of the node, need a lab")
    with FaultyStore(place.store.local, GATEWAY) as store:
        yield store


@pytest.fixture
def disks(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Volumes of the node, as the lab has no provisioner; Kubernetes sets the owner of `local` ones (fsGroup)."""
    folder = tmp_path_factory.mktemp("disks")
    [node, *_] = json.loads(runs.kube.kubectl("get", "nodes", "-o", "json"))["items"]
    hostname = node["metadata"]["labels"]["kubernetes.io/hostname"]
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}]}
    names = [f"ippo-e2e-disk-{number}" for number in range(2)]
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    for name in names:
        (folder / name).mkdir()
        spec = {
            "capacity": {"storage": STORAGE},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }
        runs.kube.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    yield
    runs.kube.call("kubectl", "delete", "ippo", NAME, "-n", runs.namespace, "--ignore-not-found")
    runs.kube.call("kubectl", "delete", "pv", *names, "--wait=false")


def pods(runs: Runs, component: str) -> list[Object]:
    return runs.kube.list("pods", runs.namespace, f"ippo.dev/run={NAME},app.kubernetes.io/component={component}")


def ready(runs: Runs, count: int) -> bool:
    status = (runs.kube.find("statefulset", runs.namespace, f"{NAME}-gateway") or {}).get("status", {})
    return bool(status.get("availableReplicas", 0) == count and status.get("replicas") == count)


def served(runs: Runs) -> bool:
    deployment = runs.kube.find("deployment", runs.namespace, NAME) or {}
    return bool(deployment.get("status", {}).get("availableReplicas"))


def claims(runs: Runs) -> list[str]:
    return [claim["metadata"]["name"] for claim in runs.kube.list("pvc", runs.namespace, f"ippo.dev/run={NAME}")]


def talk(runs: Runs, pod: Object, prefix: str, count: int) -> set[str]:
    """Conversations with one gateway; those that it answered for."""
    said = runs.kube.kubectl(
        *("exec", "-n", runs.namespace, pod["metadata"]["name"], "--", "python", "-c", ASK),
        *(pod["status"]["podIP"], prefix, str(count)),
    )
    return {json.loads(line) for line in said.splitlines()}


def closed(runs: Runs) -> list[str]:
    """Conversations whose last event is in the bucket, as often as it is there."""
    events: Iterator[dict[str, Any]] = artifacts.live_events(runs.published(NAME))
    return [event["conversation_id"] for event in events if event["kind"] == "close"]


def test_a_pod_that_is_deleted_by_force_while_the_bucket_is_away_takes_no_event_with_it(
    runs: Runs, store: FaultyStore, disks: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop, log = Shop(runs, NAME, *TEA), tmp_path_factory.mktemp("shop") / "log.jsonl"
    shop.log(log, 1200)
    shop.prepare(log)
    files = [{"name": "shop", "mountPath": FOLDER, "configMap": {"name": "shop"}}]
    volume = {"storage": STORAGE, "storageClassName": CLASS}
    gateway = SPEC["gateway"] | {"replicas": 2, "journalVolume": volume}
    spec = SPEC | {"gateway": gateway, "serve": {"engine": "Transformers"}}
    runs.create(NAME, pods={"common": {"volumes": files}}, s3={"endpointUrl": store.endpoint}, **spec)
    try:
        until(lambda: ready(runs, 2), "two gateways are ready", 15 * MINUTES)
        until(lambda: served(runs), "the policy is served", 5 * MINUTES)
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{story(runs.kube, runs.namespace, NAME)}") from None

    store.down = True
    first, second = sorted(pods(runs, "gateway"), key=lambda pod: str(pod["metadata"]["name"]))
    answered = talk(runs, first, "first", 20) | talk(runs, second, "second", 20)
    assert len(answered) == 40
    names = [pod["metadata"]["name"] for pod in (first, second)]
    runs.kube.kubectl("delete", "pod", *names, "-n", runs.namespace, "--force", "--grace-period=0")
    # One of them comes again, the other does not.
    runs.patch(NAME, gateway={"replicas": 1})
    job = f"ippo.dev/run={NAME},app.kubernetes.io/component={LEFT_JOURNAL}"
    until(lambda: ready(runs, 1), "one gateway is ready", 5 * MINUTES)
    until(lambda: runs.kube.list("jobs", runs.namespace, job), "the other's volume is to be emptied", 5 * MINUTES)
    assert not answered & set(closed(runs))
    assert len(claims(runs)) == 2

    store.down = False
    until(lambda: answered <= set(closed(runs)), "all that was answered for is in the bucket", 5 * MINUTES)
    until(lambda: len(claims(runs)) == 1, "the empty volume goes", 3 * MINUTES)
    logged = closed(runs)
    assert len(logged) == len(set(logged))
    assert condition(runs.get(NAME), "Stalled")[0] != "True"

    runs.patch(NAME, gateway={"journalVolume": None})
    until(lambda: not claims(runs), "there are no volumes any more", 5 * MINUTES)
    assert runs.kube.find("statefulset", runs.namespace, f"{NAME}-gateway") is None
    assert runs.kube.get("deployment", runs.namespace, f"{NAME}-gateway")["status"]["availableReplicas"] == 1
