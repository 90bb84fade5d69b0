"""`ippo approve`, `reject`, `suspend`, `resume` and `retry`."""

from typing import Any

import pytest
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.fake_api import Object, answer
from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import ToyController, ToyOperator, status_of, the_run

from .cluster_runs import begin

MANUAL: dict[str, Any] = {"promotion": {"mode": "Manual"}, "iterations": {"max": 2}}


def waiting(server: Server, **spec: Any) -> ToyOperator:
    """A run whose first candidate waits for an answer."""
    operator = begin(server, **(MANUAL | spec))
    operator.finish(ToyController(server.api))
    assert status_of(server.api)["iterations"][-1].get("promoted") is None
    return operator


def promotion(server: Server) -> Object:
    found: Object = the_run(server.api)["spec"]["promotion"]
    return found


def test_approve_shows_the_figures_and_sets_the_field(server: Server, ippo: Ippo) -> None:
    operator = waiting(server)
    said = ippo("approve", "small")
    assert said.code == 0
    assert said.out.splitlines()[0] == "the candidate of iteration 1, beside the policy before it:"
    assert "  the gate: better" in said.out
    assert said.out.splitlines()[-1] == "the candidate of iteration 1 is approved"
    assert promotion(server)["approve"] == 1
    assert ("PATCH", "/apis/ippo.dev/v1alpha1/namespaces/team/iterativepporuns/small?fieldManager=ippo") in server.seen
    operator.settle()
    assert status_of(server.api)["iterations"][1]["promoted"] is True


def test_reject_takes_back_an_approval_that_was_given_ahead(server: Server, ippo: Ippo) -> None:
    begin(server, **MANUAL)
    said = ippo("approve", "small", "2")
    assert said.out == "the candidate of iteration 2 is approved, once it is there and the gate lets it pass\n"
    assert ippo("reject", "small", "2").code == 0
    assert promotion(server) == {"mode": "Manual", "reject": 2}


def test_an_answer_that_replaces_an_open_one_says_so(server: Server, ippo: Ippo) -> None:
    waiting(server)
    ippo("approve", "small", "2")
    said = ippo("approve", "small")
    assert "the one for iteration 2, given before, is gone: spec.promotion.approve holds one" in said.out
    assert promotion(server)["approve"] == 1


def test_the_same_answer_twice_writes_once(server: Server, ippo: Ippo) -> None:
    waiting(server)
    ippo("approve", "small")
    said = ippo("approve", "small", "1")
    assert said.out == "the candidate of iteration 1 is approved already\n"
    assert [method for method, _ in server.seen].count("PATCH") == 1


def test_an_answer_to_a_suspended_run_says_when_it_counts(server: Server, ippo: Ippo) -> None:
    operator = waiting(server)
    ippo("suspend", "small")
    operator.settle()
    said = ippo("approve", "small")
    assert said.out.splitlines()[-1].endswith("small is suspended, so that counts once it goes on: ippo resume small")
    ippo("resume", "small")
    operator.settle()
    assert status_of(server.api)["iterations"][1]["promoted"] is True


def test_answers_that_can_have_no_effect_are_refused(server: Server, ippo: Ippo) -> None:
    begin(server, **MANUAL)
    said = ippo("approve", "small")
    assert said.code == 64
    assert "no candidate of small waits" in said.err
    assert "to answer ahead of time, name the iteration" in said.err
    assert "has 2 iterations (spec.iterations.max); given 3" in ippo("approve", "small", "3").err


def test_an_answer_is_final(server: Server, ippo: Ippo) -> None:
    operator = waiting(server)
    ippo("approve", "small")
    operator.finish(ToyController(server.api))
    assert status_of(server.api)["iterations"][-1]["iteration"] == 2
    assert "iteration 1 is decided; the candidate that waits is of iteration 2" in ippo("reject", "small", "1").err
    ippo("reject", "small")
    operator.finish(ToyController(server.api))
    assert "has ended (Succeeded)" in ippo("approve", "small").err


def test_a_run_that_asks_nobody(server: Server, ippo: Ippo) -> None:
    begin(server)
    assert "spec.promotion.mode is not Manual" in ippo("approve", "small").err


def test_suspend_and_resume(server: Server, ippo: Ippo) -> None:
    operator = begin(server)
    operator.settle()
    assert ippo("suspend", "small").out == "small is being suspended: the running stage saves its checkpoint\n"
    assert ippo("suspend", "small").out == "small is suspended already\n"
    operator.finish(ToyController(server.api))
    assert ippo("status", "small").out.startswith("small: Suspended")
    assert ippo("suspend", "small", "--wait").out.endswith("small: Suspended\n")
    assert ippo("resume", "small").out == "small goes on\n"
    said = ippo("resume", "small", "--wait", "--timeout", "0")
    assert said.code == 75
    assert "small is still Suspended after 0 s" in said.err
    operator.finish(ToyController(server.api))
    assert ippo("resume", "small", "--wait").out.splitlines()[-1] == "small: Succeeded"
    assert "there is nothing to suspend" in ippo("suspend", "small").err


def damaged(spec: StageSpec) -> StageResult | tuple[int, str]:
    """Ends fit-q with 65, and all else well."""
    return (65, "the log is damaged") if spec.stage == "fit-q" else good_result(spec)


def test_retry_asks_for_one_more_attempt_of_the_stage_that_stalled(server: Server, ippo: Ippo) -> None:
    operator = begin(server)
    assert "small has no stage that stalled (" in ippo("retry", "small").err
    operator.finish(ToyController(server.api, damaged))
    assert ippo("status", "small").out.startswith("small: Failed")
    assert ippo("retry", "small").out == "fit-q of iteration 1 of small is tried again\n"
    assert the_run(server.api)["spec"]["retries"]["requested"] == 1
    operator.finish(ToyController(server.api, damaged))
    assert ippo("retry", "small").code == 0
    assert the_run(server.api)["spec"]["retries"]["requested"] == 2
    operator.finish(ToyController(server.api))
    assert ippo("status", "small").out.startswith("small: Succeeded")
    assert "has no stage that stalled" in ippo("retry", "small").err


def test_retry_asks_for_one_more_roll_out(server: Server, ippo: Ippo) -> None:
    operator = begin(server, serve={"progressDeadlineSeconds": 600})
    controller = ToyController(server.api, serves=lambda _: False)
    operator.finish(controller)
    assert "or with ippo retry" in ippo("status", "small").out
    controller.serves = lambda _: True
    operator.settle()
    assert ippo("retry", "small").out == "the roll-out of small is tried again\n"
    operator.finish(controller)
    assert "or with ippo retry" not in ippo("status", "small").out
    assert "has no stage that stalled" in ippo("retry", "small").err


def test_a_run_that_changed_meanwhile_is_read_again(server: Server, ippo: Ippo) -> None:
    begin(server)

    def edit_first(method: str, _: str) -> None:
        if method == "PATCH" and len([m for m, _ in server.seen if m == "PATCH"]) == 1:
            server.api.edit("iterativepporuns", "team", "small", status={"observedGeneration": 1})

    server.instead = edit_first  # type: ignore[assignment]
    assert ippo("suspend", "small").code == 0
    assert the_run(server.api)["spec"]["suspend"] is True
    assert [method for method, _ in server.seen].count("PATCH") == 2


def test_a_run_that_changes_all_the_time(server: Server, ippo: Ippo) -> None:
    begin(server)
    server.instead = lambda method, _: answer(409, "Conflict") if method == "PATCH" else None
    said = ippo("suspend", "small")
    assert (said.code, said.err) == (75, "the run small changes all the time; try again\n")


@pytest.mark.parametrize(
    ("entry", "warned"),
    [
        ({"manager": "argocd-controller", "operation": "Apply"}, True),
        ({"manager": "argocd-controller", "operation": "Update"}, True),
        ({"manager": "kubectl", "operation": "Apply"}, True),
        ({"manager": "kubectl-create", "operation": "Update"}, False),
        ({"manager": "ippo", "operation": "Update"}, False),
        ({"manager": "helm", "operation": "Apply", "fieldsV1": {"f:spec": {"f:seed": {}}}}, False),
        ({"manager": "helm", "operation": "Apply", "subresource": "status"}, False),
    ],
)
def test_who_else_writes_the_field_is_named(server: Server, ippo: Ippo, entry: Object, warned: bool) -> None:
    begin(server)
    managed = {"fieldsV1": {"f:spec": {"f:suspend": {}}}} | entry
    the_run(server.api)["metadata"]["managedFields"] = [managed]
    said = ippo("suspend", "small")
    assert said.code == 0
    assert (f"spec.suspend is also written by {entry['manager']}" in said.err) is warned
