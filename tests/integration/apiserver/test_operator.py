"""The operator's process on a real API server; a stand-in completes the Jobs."""

import json
import signal
from pathlib import Path

from tests.kit.api_runs import create_run, jobs, stands, wait_for
from tests.kit.control_plane import Api, ControlPlane
from tests.kit.operator_process import Operator
from tests.kit.toy_controllers import StandIn
from tests.kit.waiting import until

FAST = ("--resync-seconds", "20")


def test_a_run_of_three_iterations_ends_succeeded(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with StandIn(api) as cluster, Operator(control_plane, tmp_path, "--lease-name", namespace, *FAST) as operator:
        operator.wait_ready()
        path = create_run(api, namespace, iterations={"max": 3})
        wait_for(api, path, "Succeeded", operator)
        run = api.get(path).body
        assert run["status"]["progress"] == "3/3"
        assert stands(api, path, "Ready") == ("True", "Completed")
        assert "finalizers" not in run["metadata"]
        assert "annotations" not in run["metadata"]
        names = [name for name in cluster.ran if name.startswith("small-")]
        assert len(names) == len(set(names)) == 13
        events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events").body["items"]
        assert {"StageCompleted", "Promoted", "Completed"} <= {event["reason"] for event in events}
        code, text = operator.probe("/metrics")
        assert code == 200
        assert 'ippo_runs{phase="Succeeded"}' in text
        assert operator.stop() == 0
        assert cluster.errors == []


def test_a_killed_operator_is_replaced_and_nothing_runs_twice(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with StandIn(api) as cluster, Operator(control_plane, tmp_path, "--lease-name", namespace, *FAST) as first:
        first.wait_ready()
        path = create_run(api, namespace)
        until(lambda: "collect" in api.get(path).body.get("status", {}).get("stage", ""), "the run is under way", 60)
        first.signal(signal.SIGSTOP)
        with Operator(control_plane, tmp_path, "--lease-name", namespace, *FAST) as second:
            wait_for(api, path, "Succeeded", second)
            first.signal(signal.SIGCONT)
            before = api.get(path).body["metadata"]["resourceVersion"]
            until(lambda: json.loads(first.probe("/livez")[1])["leader"] is False, "the first one stands by")
            assert api.get(path).body["metadata"]["resourceVersion"] == before
        names = [name for name in cluster.ran if name.startswith("small-")]
        assert len(names) == len(set(names)) == 5


def test_an_operator_of_one_namespace_leaves_others_alone(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    elsewhere = create_run(api, "default", namespace)
    flags = ("--lease-name", namespace, "--lease-namespace", namespace, "--namespace", namespace)
    with StandIn(api), Operator(control_plane, tmp_path, *flags) as operator:
        operator.wait_ready()
        path = create_run(api, namespace)
        wait_for(api, path, "Succeeded", operator)
        assert api.get(elsewhere).body["status"] == {"observedGeneration": -1}
    api.delete(elsewhere)


def test_suspend_resume_and_deletion_on_a_real_server(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with Operator(control_plane, tmp_path, "--lease-name", namespace, *FAST) as operator:
        operator.wait_ready()
        path = create_run(api, namespace)
        until(lambda: bool(jobs(api, namespace)), "the first job is there")
        api.merge(path, {"spec": {"suspend": True}})
        until(lambda: "deletionTimestamp" in jobs(api, namespace)[0]["metadata"], "the job is told to stop")
        assert stands(api, path, "Suspended")[0] == "False"
        with StandIn(api) as cluster:
            wait_for(api, path, "Suspended", operator)
            api.merge(path, {"spec": {"suspend": False}})
            wait_for(api, path, "Succeeded", operator)
            assert cluster.errors == []
        assert api.get(path).body["status"]["budgets"]["disruptions"] == 0
        assert api.delete(path).code == 200
        assert api.get(path).code == 404  # no finalizer holds it
        assert operator.stop() == 0
