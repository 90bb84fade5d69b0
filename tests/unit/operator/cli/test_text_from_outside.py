"""Whatever others wrote into a run, its pods and their logs: a terminal shows it and does nothing else."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ippo_operator.local.watch import joined
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.fake_api import answer
from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo, Said
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import ToyController

from ..cluster.test_text_from_outside import HOSTILE
from .cluster_runs import begin

EVIL = "".join(HOSTILE.values()).replace("\ud83d", "").replace("\udc00", "")
"""What an API server can hold: it has no halves of characters."""
SHORT = "\x1b[2J\u202e\u200b\n\x9bforged"


def crash(spec: StageSpec) -> StageResult | tuple[int, str]:
    return (1, "bug") if spec.stage == "fit-q" else good_result(spec)


def written(document: Any, text: str) -> Any:
    """The document with every free text in it replaced, as somebody with the right to the status could."""
    if isinstance(document, dict):
        return {key: text if key in _FREE else written(value, text) for key, value in document.items()}
    return [written(value, text) for value in document] if isinstance(document, list) else document


_FREE = {"message", "jobName", "progress", "key"}


def shown(said: Said) -> None:
    for text in (said.out, said.err):
        assert all(line.isprintable() for line in text.split("\n")), text
        assert not any(line.startswith(("forged", "small: Succeeded")) for line in text.split("\n"))


@pytest.mark.parametrize(
    "command",
    [("status", "small"), ("status",), ("status", "small", "--json"), ("explain", "small"), ("retry", "small")],
    ids=" ".join,
)
def test_a_status_that_somebody_else_wrote(server: Server, ippo: Ippo, command: tuple[str, ...]) -> None:
    begin(server, retries={"crashes": 0}).finish(ToyController(server.api, crash))
    [run] = server.api.all("iterativepporuns")
    status = written(run["status"], SHORT)
    status["conditions"] = written(run["status"]["conditions"], EVIL[:1024])
    server.api.edit("iterativepporuns", "team", "small", status=status)
    said = ippo(*command)
    shown(said)
    assert "small" in said.out + said.err


def test_the_gate_of_a_forged_status_cannot_repaint_the_question(server: Server, ippo: Ippo) -> None:
    begin(server, promotion={"mode": "Manual"}).finish(ToyController(server.api))
    [run] = server.api.all("iterativepporuns")
    status = run["status"]
    status["iterations"][-1]["decision"]["reason"] = EVIL[:512]
    server.api.edit("iterativepporuns", "team", "small", status=status)
    said = ippo("approve", "small")
    shown(said)
    assert "is approved" in said.out.splitlines()[-1]


def test_a_status_of_a_version_with_odd_fields(server: Server, ippo: Ippo) -> None:
    begin(server).finish(ToyController(server.api))
    [run] = server.api.all("iterativepporuns")
    server.api.edit("iterativepporuns", "team", "small", status=run["status"] | {EVIL: 1, "iteration": EVIL})
    said = ippo("status", "small")
    assert said.code == 64
    shown(said)


def test_the_server_and_its_webhooks_are_quoted(server: Server, ippo: Ippo) -> None:
    server.instead = lambda _method, _path: answer(403, "Forbidden", EVIL)
    said = ippo("status", "small")
    assert said.code == 64
    shown(said)


def test_a_log_shows_its_lines_and_pods_with_odd_labels_do_not_matter(server: Server, ippo: Ippo) -> None:
    operator, controller = begin(server), ToyController(server.api)
    operator.settle()
    controller.step()
    operator.settle()
    [pod] = server.api.all("pods")
    pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = "odd"
    server.log = lambda _pod, _query: iter([b"  indented \x1b[2J\xe2\x80\xae\x00\xff\x9b text\r\n", b"INFO x\x85\n"])
    said = ippo("logs", "small")
    shown(said)
    assert said.out.split("\n")[0].startswith("  indented \ufffd[2J")


def test_a_field_manager_cannot_write_on_the_screen(server: Server, ippo: Ippo) -> None:
    begin(server).settle()
    [run] = server.api.all("iterativepporuns")
    field = {"manager": f"argocd{SHORT}", "operation": "Apply", "fieldsV1": {"f:spec": {"f:suspend": {}}}}
    server.api.edit("iterativepporuns", "team", "small", metadata=run["metadata"] | {"managedFields": [field]})
    said = ippo("suspend", "small")
    assert "also written by argocd" in said.err
    shown(said)


PROGRESS: dict[str, Callable[[], Iterator[list[str]]]] = {
    "a number that no int is made of": lambda: iter([["x INFO PPO: " + "9" * 5000 + "/10 steps"]]),
    "many beginnings": lambda: iter([["INFO " * 100_000]]),
    "controls": lambda: iter([["x INFO \x1b[2JPPO\n: 1/10 \x1b]0;t\x07steps"]]),
    "nothing to do": lambda: iter([["x INFO PPO: 0/0 steps"]]),
}


@pytest.mark.parametrize("logs", PROGRESS.values(), ids=PROGRESS)
def test_a_line_about_progress_is_only_text(logs: Callable[[], Iterator[list[str]]]) -> None:
    progress = joined(logs())
    if progress is not None:
        assert (progress.what + progress.rest).isprintable()
        assert 0 <= progress.share <= 1
        json.dumps(progress.done)
