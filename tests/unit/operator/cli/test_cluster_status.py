"""`ippo status` of runs in a cluster."""

import io
import json

import pytest
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.status.watch import Screen, follow
from ippo_operator.cluster.remote.runs import Runs

from tests.kit.fake_api import answer
from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo
from tests.kit.toy_cluster import ToyController

from .cluster_runs import begin, crash, finish


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_a_run_that_succeeded(server: Server, ippo: Ippo) -> None:
    finish(server, iterations={"max": 2})
    said = ippo("status", "small")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].startswith("small: Succeeded, 2 of 2 iterations done")
    assert lines[1] == "  2 of 2 iterations are done"
    assert [row.split()[:3] for row in lines[4:6]] == [["1", "Promote", "12.0%"], ["2", "Promote", "24.0%"]]
    assert "yes" in lines[4]
    assert server.agents == {"ippo"}


def test_json_has_what_a_folder_has_and_the_clusters_own(server: Server, ippo: Ippo) -> None:
    finish(server)
    document = json.loads(ippo("status", "small", "--json").out)
    assert (document["phase"], document["reason"], document["progress"]) == ("Succeeded", "Completed", "1/1")
    assert document["iterations"][0]["decision"] == "Promote"
    assert {c["type"] for c in document["conditions"]} >= {"Ready", "Stalled", "Promoted"}
    assert document["observed"] is True


def test_the_progress_inside_the_stage_is_read_from_its_pods(server: Server, ippo: Ippo) -> None:
    operator = begin(server)
    controller = ToyController(server.api)
    operator.settle()
    controller.step()
    line = "2026-01-31T12:00:00Z INFO imitating: 30/60 conversations, 5/s, 6 s left\n"
    server.log = lambda pod, query: iter([b"hello\n", line.encode()])
    said = ippo("status", "small")
    assert "imitating: " + "█" * 12 + "░" * 12 + " 30/60 conversations, 5/s, 6 s left" in said.out
    server.log = lambda pod, query: answer(403, "Forbidden", "pods/log is forbidden")
    assert "progress is not known: pods/log is forbidden" in ippo("status", "small").out


def test_a_stalled_run_says_what_to_do(server: Server, ippo: Ippo) -> None:
    finish(server, crash, retries={"crashes": 0})
    said = ippo("status", "small")
    assert said.out.startswith("small: Failed")
    assert "what to do (BudgetExhausted): Mend what status.lastFailure names" in said.out
    assert "last failure: fit-q of iteration 1, attempt 1" in said.out
    assert "ZeroDivisionError\n  what to do: `ippo logs small --previous`" in said.out
    assert ippo("status", "small", "--watch").code == 1


def test_a_run_that_nobody_has_seen(server: Server, ippo: Ippo) -> None:
    begin(server)
    said = ippo("status", "small")
    assert said.out.startswith("small: Pending")
    assert "no operator has looked at the run yet" in said.out
    server.api.objects["iterativepporuns", "team", "small"]["metadata"]["creationTimestamp"] = "2026-01-31T12:00:00Z"
    assert "see that one is at work" in ippo("status", "small").out


def test_what_it_waits_for(server: Server, ippo: Ippo) -> None:
    operator = begin(server, queue={"localQueueName": "gpus"})
    operator.settle()
    operator.settle()
    said = ippo("status", "small")
    assert "waits: WaitingForQuota" in said.out
    assert "kubectl describe localqueue" in said.out


def test_all_runs_of_a_namespace_and_of_all(server: Server, ippo: Ippo) -> None:
    finish(server)
    begin(server, "other", "elsewhere")
    here = ippo("status").out.splitlines()
    assert here[0].split() == ["NAME", "PHASE", "PROGRESS", "STAGE", "REASON", "AGE"]
    assert [line.split()[:3] for line in here[1:]] == [["small", "Succeeded", "1/1"]]
    everywhere = ippo("status", "-A").out.splitlines()
    assert [line.split()[:2] for line in everywhere[1:]] == [["elsewhere", "other"], ["team", "small"]]
    assert ippo("status", "-n", "void").out == "no runs in namespace void; all: ippo status -A\n"


@pytest.mark.parametrize("arguments", [["-w"], ["--json"], ["small", "-A"]])
def test_options_that_do_not_go_together(server: Server, ippo: Ippo, arguments: list[str]) -> None:
    said = ippo("status", *arguments)
    assert (said.code, said.out) == (64, "")


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_is_known(server: Server, ippo: Ippo) -> None:
    finish(server)
    run = server.api.objects["iterativepporuns", "team", "small"]
    run["status"]["sparkles"] = {"many": 1}
    run["status"]["iterations"][0]["colour"] = "blue"
    assert ippo("status", "small").out.startswith("small: Succeeded")
    run["status"]["lastFailure"] = {"iteration": "many"}
    said = ippo("status", "small")
    assert said.code == 64
    assert "the operator is of another version" in said.err


def test_a_run_whose_last_policy_could_not_be_served(server: Server, ippo: Ippo) -> None:
    finish(server)
    run = server.api.objects["iterativepporuns", "team", "small"]
    told = {"reason": "RolledBack", "message": "the servers of iteration 2's policy were not ready in time"}
    for condition in run["status"]["conditions"]:
        if condition["type"] in {"Stalled", "Ready"}:
            condition |= told | {"status": "True" if condition["type"] == "Stalled" else "False"}
    active, target = (
        {"iteration": number, "digest": f"sha256:{number}" + "0" * 63, "key": "k", "settings": "sha256:" + "1" * 64}
        for number in (1, 2)
    )
    failed = target | told | {"time": "2026-01-31T12:00:00Z"}
    run["status"]["serving"] = {"active": active, "target": active, "failed": failed}
    said = ippo("status", "small")
    assert said.out.startswith("small: Succeeded")
    assert "what to do (RolledBack)" in said.out
    assert "`kubectl describe deployment small`" in said.out
    assert "serving: the policy of iteration 1 (100000000000)" in said.out
    assert ippo("status", "small", "-w").code == 1, "it did not end well"


def test_trouble_with_servers_does_not_hide_what_the_run_does(server: Server, ippo: Ippo) -> None:
    """Ready tells of the servers, Reconciling of the run."""
    operator = begin(server, promotion={"mode": "Manual"})
    operator.finish(ToyController(server.api))
    run = server.api.objects["iterativepporuns", "team", "small"]
    ready = next(condition for condition in run["status"]["conditions"] if condition["type"] == "Ready")
    ready |= {"reason": "RolledBack", "message": "the servers were not ready in time"}
    said = ippo("status", "small")
    assert said.out.startswith("small: Waiting")
    assert "`ippo approve small`" in said.out
    assert "RolledBack" in ippo("explain", "small").out


def test_servers_that_are_rolled_out_again_after_the_end(server: Server, ippo: Ippo) -> None:
    finish(server)
    run = server.api.objects["iterativepporuns", "team", "small"]
    for condition in run["status"]["conditions"]:
        if condition["type"] in {"Reconciling", "Ready"}:
            condition |= {"reason": "RollingOut", "message": "the servers are not ready yet"}
            condition["status"] = "True" if condition["type"] == "Reconciling" else "False"
    assert ippo("status", "small").out.splitlines()[:2] == [
        "small: Running, 1 of 1 iterations done  ████████████████████████",
        "  the servers are not ready yet",
    ]


def test_a_run_on_its_way_out(server: Server, ippo: Ippo) -> None:
    begin(server)
    run = server.api.objects["iterativepporuns", "team", "small"]
    run["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert ippo("status", "small").out.startswith("small: Terminating")


def test_one_run_of_another_version_does_not_hide_the_others(server: Server, ippo: Ippo) -> None:
    finish(server)
    begin(server, "alien")
    server.api.objects["iterativepporuns", "team", "alien"]["status"] = {"iteration": "many"}
    said = ippo("status")
    assert said.code == 0
    assert "alien   Unknown" in said.out
    assert "small   Succeeded" in said.out


def test_watch_writes_a_line_per_change_until_the_end(server: Server, ippo: Ippo, runs: Runs) -> None:
    operator = begin(server)
    controller = ToyController(server.api)
    out = io.StringIO()

    def pass_by(_: float) -> None:
        operator.settle()
        controller.step()

    last = follow(runs, "small", out=out, sleep=pass_by)
    said = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert last.phase == "Succeeded"
    assert said[0] == "Pending, 0: no operator has looked at the run yet"
    assert "Running, 0/1: evaluate of iteration 1, attempt 1" in said
    assert said[-1] == "Succeeded, 1/1: 1 of 1 iterations are done"
    assert len(said) == len(set(said))


def test_watch_redraws_a_terminal_and_leaves_the_end_there(server: Server, runs: Runs) -> None:
    finish(server)
    out = Terminal()
    follow(runs, "small", out=out, sleep=lambda _: None)
    assert out.getvalue().startswith("\x1b[?1049h")
    _, after = out.getvalue().split("\x1b[?1049l")
    assert after.startswith("small: Succeeded")


def test_watch_outlasts_an_api_server_that_is_gone_for_a_while(server: Server, runs: Runs) -> None:
    operator = begin(server)
    controller = ToyController(server.api)
    out = io.StringIO()
    down = iter([True, True, False])

    def pass_by(_: float) -> None:
        refusal = answer(503, "ServiceUnavailable", "etcd is away", **{"Retry-After": "60"})
        server.instead = lambda _m, _p: refusal if is_down else None
        is_down = next(down, False)
        operator.settle()
        controller.step()

    assert follow(runs, "small", out=out, sleep=pass_by).phase == "Succeeded"
    assert out.getvalue().count("etcd is away; still trying") == 1


def test_watch_ends_when_the_run_is_deleted(server: Server, runs: Runs) -> None:
    begin(server)
    with pytest.raises(CommandError, match="was deleted") as caught:
        follow(runs, "small", quiet=True, sleep=lambda _: server.api.remove("iterativepporuns", "team", "small"))
    assert caught.value.code == 1


def test_a_screen_never_draws_more_than_the_terminal_has(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "3")
    out = Terminal()
    Screen(out).trouble("x" * 100)
    assert out.getvalue() == "\x1b[H\x1b[J" + "x" * 19
