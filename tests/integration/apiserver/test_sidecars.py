"""Pods with a classic sidecar under the real Job controller and garbage collector; a stand-in plays the kubelet."""

from collections import Counter
from pathlib import Path
from typing import Any

from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.api_runs import create_run, status_of, wait_for
from tests.kit.kubelet import Kubelet, Pod, delete_namespace, namespace_of
from tests.kit.operator_process import Operator
from tests.kit.planner_world import good_result
from tests.kit.real_controllers import Cluster
from tests.kit.waiting import until

NAMESPACE = "meshed"
LONG_AGO = "2026-01-31T12:00:00Z"


class Meshed(Kubelet):
    """Its pods go on when their stage is over, until they are deleted."""

    def _look_at(self, pod: Pod) -> None:
        statuses = pod["status"].get("containerStatuses") or ()
        if "deletionTimestamp" in pod["metadata"] or len(statuses) < 2:
            super()._look_at(pod)

    def _say(self, path: str, phase: str, state: dict[str, Any]) -> bool:
        if phase not in {"Succeeded", "Failed"} or state["terminated"]["exitCode"] == 143:
            return super()._say(path, phase, state)
        stage = {"terminated": state["terminated"] | {"startedAt": LONG_AGO, "finishedAt": LONG_AGO}}
        common = {"ready": False, "restartCount": 0, "image": "i", "imageID": "i"}
        proxy = {"name": "istio-proxy", "state": {"running": {"startedAt": LONG_AGO}}} | common
        status = {"phase": "Running", "containerStatuses": [proxy, {"name": "stage", "state": stage} | common]}
        return self._api.merge(f"{path}/status", {"status": status}).code == 200


def test_runs_end_although_their_pods_do_not(cluster: Cluster, tmp_path: Path) -> None:
    api = cluster.api
    namespace_of(api, NAMESPACE)

    def ending(spec: StageSpec) -> StageResult | tuple[int, str]:
        bad = spec.run == "bad" and spec.stage == "collect"
        return (65, '{"error": {"message": "no outcome in it"}}') if bad else good_result(spec)

    with Meshed(api, ending) as node, Operator(cluster, tmp_path, "--lease-name", NAMESPACE) as operator:
        operator.wait_ready()
        good, bad = (create_run(api, NAMESPACE, name) for name in ("good", "bad"))
        wait_for(api, good, "Succeeded", operator, reason="Completed", seconds=120)
        wait_for(api, bad, "Stalled", operator, reason="InvalidData", seconds=60)
        failure = status_of(api, bad)["lastFailure"]
        assert (failure["exitCode"], failure["stage"]) == (65, "collect")
        assert "no outcome in it" in failure["message"]
        for kind in ("/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods"):
            place = kind.format(NAMESPACE)
            until(lambda place=place: api.get(place).body["items"] == [], f"{place} are gone", 60)  # type: ignore[misc]
        assert len(node.ended) == len(set(node.ended))
        ends = Counter(pod.split("-")[0] for pod in node.ended)
        # The other shard of the failed collect may be deleted before the node gets to it.
        assert ends["good"] == 6, node.ended
        assert ends["bad"] in {2, 3}, node.ended
        assert node.errors == []
        assert operator.stop() == 0
    delete_namespace(api, NAMESPACE)
