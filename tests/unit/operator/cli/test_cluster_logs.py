"""`ippo logs`."""

from collections.abc import Iterator
from typing import Any

import pytest
from ippo_operator.cli.logs.cluster import ClusterFollower
from ippo_operator.cluster.remote.runs import Runs
from ippo_operator.cluster.transport import Response
from ippo_operator.manifests.identity import JOB_INDEX

from tests.kit.fake_api import answer
from tests.kit.fake_server import Server, no_log
from tests.kit.ippo_command import Ippo
from tests.kit.toy_cluster import ToyController, ToyOperator

from .cluster_runs import begin, crash, finish


def written(pod: str, query: dict[str, str]) -> Iterator[bytes]:
    """Two lines that name the pod; the last one for --tail 1."""
    lines = [f"{pod} begins\n".encode(), f"{pod} ends\n".encode()]
    tail = query.get("tailLines")
    return iter(lines if tail is None else lines[len(lines) - min(len(lines), int(tail)) :])


def running(server: Server, **spec: Any) -> tuple[ToyOperator, ToyController]:
    """A run whose warm start has a pod that runs."""
    operator, controller = begin(server, **spec), ToyController(server.api)
    operator.settle()
    controller.step()
    server.log = written
    return operator, controller


def test_of_the_stage_that_runs(server: Server, ippo: Ippo) -> None:
    running(server)
    said = ippo("logs", "small")
    assert said.code == 0
    pod = server.api.all("pods")[0]["metadata"]["name"]
    assert said.out == f"{pod} begins\n{pod} ends\n"
    assert said.err == f"--- warm-start of iteration 0, attempt 1, pod {pod}\n"
    assert ippo("logs", "small", "--tail", "1").out == f"{pod} ends\n"
    path = f"/api/v1/namespaces/team/pods/{pod}/log?container=stage"
    assert ("GET", path) in server.seen


def test_of_the_stage_that_ran_last_and_of_others(server: Server, ippo: Ippo) -> None:
    finish(server, iterations={"max": 2})
    server.log = written
    assert "--- evaluate of iteration 2, attempt 1" in ippo("logs", "small").err
    assert "--- fit-q of iteration 2, attempt 1" in ippo("logs", "small", "--stage", "fit-q").err
    assert "--- fit-q of iteration 1" in ippo("logs", "small", "--stage", "fit-q", "--iteration", "1").err
    said = ippo("logs", "small", "--stage", "fit-q", "--attempt", "7")
    assert (said.code, said.err) == (
        64,
        "small has run no such stage; it is at evaluate of iteration 2, attempt 1\n",
    )


def test_of_one_of_several_pods(server: Server, ippo: Ippo) -> None:
    finish(server)
    server.log = written
    for pod in server.api.all("pods"):
        index = pod["metadata"]["name"].rsplit("-", 1)[1]
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = index
    said = ippo("logs", "small", "--stage", "collect")
    assert said.err.endswith("-0 (others: --shard 1)\n")
    assert ippo("logs", "small", "--stage", "collect", "--shard", "1").out.split()[0].endswith("-1")
    said = ippo("logs", "small", "--stage", "collect", "--shard", "5")
    assert (said.code, said.err) == (75, "collect of iteration 1, attempt 1 has no shard 5; there are 0, 1\n")


def test_of_the_attempt_that_failed(server: Server, ippo: Ippo) -> None:
    finish(server, crash, retries={"crashes": 1, "backoffSeconds": 0})
    server.log = written
    assert "--- fit-q of iteration 1, attempt 2" in ippo("logs", "small", "--previous").err


def test_before_there_is_a_log(server: Server, ippo: Ippo) -> None:
    operator = begin(server)
    said = ippo("logs", "small")
    assert (said.code, said.out) == (75, "")
    assert said.err.startswith("small has run no stage yet: no operator has looked at the run yet")
    operator.settle()
    said = ippo("logs", "small")
    assert said.code == 75
    assert said.err.startswith("warm-start of iteration 0, attempt 1 has no pod yet: ")
    ToyController(server.api).step()
    server.api.all("pods")[0]["status"] = {"phase": "Pending"}
    server.log = no_log
    said = ippo("logs", "small")
    assert said.code == 75
    assert "is waiting to start: ContainerCreating. The run: " in said.err
    assert "no attempt of small has failed" in ippo("logs", "small", "--previous").err


def test_after_the_pods_are_gone(server: Server, ippo: Ippo) -> None:
    finish(server)
    for job in server.api.all("jobs"):
        server.api.remove("jobs", "team", job["metadata"]["name"])
    said = ippo("logs", "small")
    assert said.code == 75
    assert said.err.startswith("the pods of evaluate of iteration 1, attempt 1 are gone, and their logs with them")


def test_pods_that_are_no_stage_of_the_run_are_left_alone(server: Server, ippo: Ippo) -> None:
    running(server)
    labels = server.api.all("pods")[0]["metadata"]["labels"] | {"ippo.dev/attempt": "many"}
    server.api.put("pods", {"metadata": {"name": "forged", "namespace": "team", "labels": labels}})
    assert "forged" not in ippo("logs", "small").out


def test_an_index_that_is_no_number_is_none(server: Server, ippo: Ippo) -> None:
    """Python refuses to read a number of so many digits, which an annotation has room for."""
    running(server)
    [pod] = server.api.all("pods")
    metadata = pod["metadata"]
    metadata["labels"].pop(JOB_INDEX, None)
    annotations = metadata.get("annotations", {}) | {JOB_INDEX: "9" * 5000}
    server.api.edit("pods", "team", metadata["name"], metadata=metadata | {"annotations": annotations})
    assert ippo("logs", "small").code == 0


@pytest.mark.parametrize(
    "arguments",
    [["--previous", "--stage", "fit-q"], ["-f", "--previous"], ["-f", "--iteration", "1"], ["--attempt", "-1"]],
)
def test_options_that_do_not_go_together(server: Server, ippo: Ippo, arguments: list[str]) -> None:
    assert ippo("logs", "small", *arguments).code == 64


def test_follow_goes_from_stage_to_stage_until_the_run_ends(
    server: Server, capsys: pytest.CaptureFixture[str], runs: Runs
) -> None:
    operator, controller = running(server)

    def go_on(_: float = 0) -> None:
        operator.settle()
        controller.step()

    code = ClusterFollower(runs, "small", sleep=go_on).follow()
    captured = capsys.readouterr()
    begun = [line.split()[0] for line in captured.out.splitlines() if line.endswith("begins")]
    assert code == 0
    assert len(begun) == len(set(begun)) == 5, "one of each stage"
    assert [line.split()[1] for line in captured.err.splitlines() if ", pod " in line] == [
        "warm-start",
        "collect",
        "fit-q",
        "improve",
        "evaluate",
    ]
    assert captured.err.splitlines()[-1] == "--- small: Succeeded: 1 of 1 iterations are done"


def test_follow_prints_no_line_twice_when_a_stream_breaks(
    server: Server, capsys: pytest.CaptureFixture[str], runs: Runs
) -> None:
    operator, controller = running(server)
    calls = []

    def breaks(pod: str, query: dict[str, str]) -> Iterator[bytes] | Response:
        calls.append(query.get("tailLines"))
        return iter([b"one\n", b"two\n"][: len(calls)])

    server.log = breaks

    def go_on(_: float) -> None:
        if len(calls) >= 2:
            operator.finish(controller)
            server.log = lambda pod, query: iter([b"one\n", b"two\n"]) if "warm" in pod or "0000" in pod else iter(())

    ClusterFollower(runs, "small", sleep=go_on).follow()
    assert capsys.readouterr().out.splitlines().count("one") == 1


def test_follow_ends_with_1_when_the_run_stalls(server: Server, capsys: pytest.CaptureFixture[str], runs: Runs) -> None:
    finish(server, crash, retries={"crashes": 0})
    server.log = written
    assert ClusterFollower(runs, "small", sleep=lambda _: None).follow() == 1
    assert "fit-q of iteration 1" in capsys.readouterr().err


def test_follow_says_why_it_waits_once(server: Server, capsys: pytest.CaptureFixture[str], runs: Runs) -> None:
    operator, controller = running(server)
    server.api.all("pods")[0]["status"] = {"phase": "Pending"}
    waits = iter(range(3))

    def go_on(_: float) -> None:
        if next(waits, None) is None:
            operator.finish(controller)

    ClusterFollower(runs, "small", sleep=go_on).follow()
    assert capsys.readouterr().err.count("has not started") == 1


def test_a_kubelet_that_does_not_answer(server: Server, ippo: Ippo) -> None:
    running(server)
    server.log = lambda pod, query: answer(502, "BadGateway", "no route to host")
    said = ippo("logs", "small")
    assert said.code == 75
    assert "no route to host; try again" in said.err
