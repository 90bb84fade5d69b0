"""`ippo diff` and `ippo explain`."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.cli.diff.cluster import LAST_APPLIED, merge_patch

from tests.kit.fake_api import answer
from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo
from tests.kit.toy_cluster import run_manifest, the_run

from .cluster_runs import KEPT, begin, crash, finish


def manifest(folder: Path, metadata: Any = None, **spec: Any) -> str:
    path = folder / "run.yaml"
    path.write_text(json.dumps(run_manifest(cleanup=KEPT, **spec) | {"metadata": {"name": "small"} | (metadata or {})}))
    return str(path)


def applied(server: Server, **spec: Any) -> None:
    """The run is what kubectl applied."""
    text = json.dumps(run_manifest(cleanup=KEPT, **spec))
    the_run(server.api)["metadata"]["annotations"] = {LAST_APPLIED: text}


def test_no_difference(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    finish(server)
    applied(server)
    said = ippo("diff", "-f", manifest(tmp_path))
    assert (said.code, said.out, said.err) == (0, "small: no difference\n", "")


def test_what_may_change_and_what_may_not(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    finish(server)
    applied(server)
    said = ippo("diff", "-f", manifest(tmp_path, iterations={"max": 3}))
    assert (said.code, said.out) == (1, "spec.iterations.max: 1 → 3  allowed\n")
    said = ippo("diff", "-f", manifest(tmp_path, iterations={"max": 3}, seed=7))
    assert said.code == 64
    first, second = said.out.splitlines()
    assert first == "spec.iterations.max: 1 → 3  allowed"
    assert second.startswith("spec.seed: 0 → 7  REFUSED: given 7 instead of 0; this field is immutable")
    assert the_run(server.api)["spec"]["iterations"] == {"max": 1}, "nothing is written"


def test_before_the_run_has_started_all_may_change(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    begin(server)
    applied(server)
    assert ippo("diff", "-f", manifest(tmp_path, seed=7)).out == "spec.seed: 0 → 7  allowed\n"


def test_what_others_set_stays(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    """`ippo suspend` and then an apply of the same file: the run stays suspended."""
    begin(server)
    applied(server)
    assert ippo("suspend", "small").code == 0
    assert ippo("diff", "-f", manifest(tmp_path)).code == 0


def test_what_was_applied_and_is_left_out_goes(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    begin(server, suspend=True)
    applied(server, suspend=True)
    assert ippo("diff", "-f", manifest(tmp_path)).out == "spec.suspend: true → false  allowed\n"
    del the_run(server.api)["metadata"]["annotations"]
    said = ippo("diff", "-f", manifest(tmp_path))
    assert said.code == 0
    assert said.err.startswith("note: small was not made by kubectl apply")


def test_the_servers_own_refusal(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    begin(server)
    applied(server)
    server.instead = lambda method, path: answer(422, "Invalid", "no") if "dryRun=All" in path else None
    said = ippo("diff", "-f", manifest(tmp_path, seed=7))
    assert (said.code, said.out.splitlines()[-1]) == (64, "small would be refused: no")


def test_a_run_that_is_not_there_yet(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    said = ippo("diff", "-f", manifest(tmp_path))
    assert (said.code, said.out) == (1, "small would be created in namespace team\n")
    assert server.api.all("iterativepporuns") == []
    said = ippo("diff", "-f", manifest(tmp_path, {"namespace": "a"}), "-n", "b")
    assert said.code == 64
    assert "is for namespace a, and -n says b" in said.err


@pytest.mark.parametrize(
    ("last", "new", "live", "patch"),
    [
        ({}, {"a": 1}, {"a": 1, "b": 2}, {}),
        ({"b": 2}, {"a": 1}, {"a": 1, "b": 2}, {"b": None}),
        ({"b": 2}, {"a": 1}, {"a": 1}, {}),
        ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2}}, {"a": {"x": 1, "y": 1, "z": 1}}, {"a": {"x": 2, "y": None}}),
        ({"a": {"x": 1}}, {"a": {}}, {"a": {"x": 1}}, {"a": {"x": None}}),
        ({"a": {"x": 1}}, {}, {"a": {"x": 1}}, {"a": None}),
        ({}, {"a": [1]}, {"a": [1, 2]}, {"a": [1]}),
        ({}, {"a": {"x": 1}}, {"a": 3}, {"a": {"x": 1}}),
    ],
)
def test_the_patch_of_a_three_way_apply(last: Any, new: Any, live: Any, patch: Any) -> None:
    assert merge_patch(last, new, live) == patch


def test_explain_a_reason_and_all_of_them(ippo: Ippo) -> None:
    said = ippo("explain", "unschedulable")
    assert said.code == 0
    assert said.out.splitlines()[0] == "Unschedulable"
    assert "to do:    Add such nodes" in said.out
    assert len(ippo("explain").out.splitlines()) == len(Reason)
    said = ippo("explain", "Unschedulabel")
    assert (said.code, said.err) == (64, "there is no reason Unschedulabel; did you mean Unschedulable?\n")
    assert "see them all with: ippo explain" in ippo("explain", "Xyzzy").err


def test_explain_a_run(server: Server, ippo: Ippo) -> None:
    finish(server, crash, retries={"crashes": 0})
    said = ippo("explain", "small")
    assert said.code == 0
    assert "Stalled is True" in said.out
    assert "  BudgetExhausted" in said.out
    assert "the last failure, of fit-q in iteration 1" in said.out
    assert "`ippo logs small --previous`" in said.out


def test_every_verb_teaches(ippo: Ippo) -> None:
    for verb in ("status", "logs", "approve", "reject", "suspend", "resume", "report", "diff", "explain"):
        said = ippo(verb, "--help")
        assert said.code == 0
        assert "example" in said.out
        assert "--kubeconfig" in said.out
