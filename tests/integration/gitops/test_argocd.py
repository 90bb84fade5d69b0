"""Runs that Argo CD applies from Git, with the health and the actions of the chart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.gitops.customization import CONFIG_MAP

from .argo import ArgoServer
from .cluster import Lab
from .kubelet import Kubelet
from .repository import Repository
from .stories import Run, fails_at, manifest, until_stage
from .tools import Application, example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SYSTEM = "argocd"
NewRepository = Callable[[str], Repository]
NOTE: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "team"}, "data": {"a": "b"}}
"""Something else in the repository: Argo CD does not prune an application empty by itself."""


class Team(Application):
    """A namespace, its repository, and the Application that brings one into the other."""

    def __init__(self, lab: Lab, kubelet: Kubelet, repository: Repository, name: str) -> None:
        super().__init__(lab, name, lambda: self.run.now)
        self.lab, self.kubelet, self.repository = lab, kubelet, repository
        self.run = Run(lab, name)
        lab.namespace(name)

    def follow(self, whole: bool = False) -> None:
        """Has Argo CD sync the folder runs/, as in the example or the whole of it."""
        [application] = example("argocd/runs.yaml", whole)
        application["metadata"]["name"] = self.name
        spec = application["spec"]
        spec["source"]["repoURL"] = f"{self.lab.url}/{self.name}.git"
        spec["destination"]["namespace"] = self.name
        # A refused sync is tried again once, not for minutes: no other one begins before that is over.
        spec["syncPolicy"]["retry"] = {"limit": 1, "backoff": {"duration": "1s"}}
        self.lab.apply(application)

    def push(self, text: str | None, message: str = "a change", note: dict[str, Any] = NOTE) -> str:
        """The run in Git from now on; None takes it out."""
        self.repository.write("runs/small.yaml", text)
        self.repository.write("runs/note.yaml", yaml.safe_dump(note))
        return self.pushed(message)

    def pushed(self, message: str) -> str:
        """Commits, and has Argo CD look."""
        commit = self.repository.push(message)
        self.refresh()
        return commit


@pytest.fixture
def team(
    argocd: Lab, kubelet: Kubelet, repository: NewRepository, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Team]]:
    made: list[Team] = []
    answer = argocd.api.apply(argocd.path("ConfigMap", SYSTEM, "argocd-cm"), yaml.safe_load(CONFIG_MAP.read_text()))
    assert answer.code == 200, answer.message
    assert "timeout.reconciliation" in answer.body["data"]  # what was there stays

    def new(name: str) -> Team:
        made.append(Team(argocd, kubelet, repository(name), name))
        return made[-1]

    yield new
    for team in made:
        argocd.api.delete(argocd.path("Application", SYSTEM, team.name))
    assert kubelet.errors == []


@pytest.fixture
def server(argocd: Lab, tmp_path: Path) -> Iterator[ArgoServer]:
    with ArgoServer(argocd, tmp_path) as server:
        yield server


def serving(**spec: Any) -> str:
    """A run that serves its policy."""
    return manifest(serve={"engine": "Transformers"}, **spec)


def work(run: dict[str, Any]) -> dict[str, Any]:
    """What was done, as the status has it; whether its servers are ready at this moment is another matter."""
    return {name: told for name, told in run["status"].items() if name not in {"serving", "conditions"}}


def test_a_run_in_git_from_its_start_to_a_second_life(team: Callable[[str], Team]) -> None:
    shop = team("argo-shop")
    run, kubelet = shop.run, shop.kubelet
    kubelet.endings[shop.name] = until_stage("fit-q")
    commit = shop.push(serving())
    shop.follow()
    shop.wait("Progressing", commit)
    run.wait_stage("fit-q")
    shop.wait("Suspended", shop.push(serving(suspend=True), "suspend"))
    commit = shop.push(serving(), "resume: suspend is taken out")
    shop.wait("Progressing", commit)
    del kubelet.endings[shop.name]
    shop.wait("Healthy", commit)
    assert run.condition("Succeeded") == ("True", "Completed")
    assert shop.lab.get("Deployment", shop.name, "small").code == 200

    done, ran, uid = run.now, kubelet.jobs(shop.name), run.uid
    assert len(ran) == len(set(ran)) == 5
    shop.repository.write("README.md", "nothing that matters")
    shop.wait("Healthy", shop.pushed("a commit that changes no manifest"))
    shop.sync()
    assert run.now["metadata"]["generation"] == done["metadata"]["generation"]
    assert work(run.now) == work(done)
    assert (run.uid, kubelet.jobs(shop.name)) == (uid, ran)

    commit = shop.push(serving(iterations={"max": 2}), "one more iteration")
    run.wait("Ready")
    shop.wait("Healthy", commit)
    assert (run.uid, run.now["status"]["progress"]) == (uid, "2/2")
    assert kubelet.jobs(shop.name)[: len(ran)] == ran
    assert len(kubelet.jobs(shop.name)) == len(ran) + 4

    done = run.now
    shop.push(serving(iterations={"max": 2}, seed=9), "what is immutable")
    shop.until(lambda: "spec.seed: Forbidden: is immutable" in str(shop.status.get("operationState")), "it is refused")
    assert (run.now["spec"], work(run.now)) == (done["spec"], work(done))
    shop.wait("Healthy", shop.push(serving(iterations={"max": 2}), "put back"))

    ran = kubelet.jobs(shop.name)
    shop.push(None, "out of Git")
    shop.until(lambda: not run.there, "the run is pruned")
    shop.until(lambda: shop.lab.get("Deployment", shop.name, "small").code == 404, "its servers are gone too")
    commit = shop.push(serving(), "back in Git")
    shop.until(lambda: run.there, "the run is there again")
    run.wait("Ready")
    shop.wait("Healthy", commit)
    assert run.uid != uid
    assert len(kubelet.jobs(shop.name)) == len(ran) + 5


def test_a_run_that_cannot_go_on_is_degraded_until_git_mends_it(team: Callable[[str], Team]) -> None:
    shop = team("argo-stalls")
    shop.kubelet.endings[shop.name] = fails_at("improve")
    retries = {"crashes": 0, "backoffSeconds": 0}
    shop.push(manifest(retries=retries))
    shop.follow()
    shop.wait("Degraded")
    assert shop.run.condition("Stalled") == ("True", "BudgetExhausted")
    del shop.kubelet.endings[shop.name]
    shop.wait("Healthy", shop.push(manifest(retries=retries | {"crashes": 1}), "once more"))


def test_people_act_and_no_sync_takes_it_back(team: Callable[[str], Team], server: ArgoServer) -> None:
    shop = team("argo-acts")
    shop.kubelet.endings[shop.name] = until_stage("collect")
    commit = shop.push(manifest(promotion={"mode": "Manual"}, iterations={"max": 2}))
    shop.follow()
    shop.wait("Progressing", commit)
    shop.run.wait_stage("collect")
    assert server.actions(shop.name, shop.name) == ["suspend"]

    server.act(shop.name, shop.name, "suspend")
    shop.wait("Suspended", commit)
    shop.sync()
    assert shop.run.now["spec"]["suspend"] is True
    assert server.actions(shop.name, shop.name) == ["resume"]
    server.act(shop.name, shop.name, "resume")
    shop.wait("Progressing", commit)

    del shop.kubelet.endings[shop.name]
    shop.run.wait("Reconciling", "AwaitingApproval")
    shop.wait("Suspended", commit)
    asked = "0/2 iterations done: the candidate of iteration 1 waits for spec.promotion.approve: 1 or reject: 1"
    shop.until(lambda: server.health(shop.name).get("message", "").startswith(asked), "the question is shown")
    assert server.actions(shop.name, shop.name) == ["approve", "reject", "suspend"]
    server.act(shop.name, shop.name, "approve")
    shop.until(lambda: shop.run.now["status"]["progress"] == "1/2", "it is promoted")
    shop.until(lambda: "reject" in server.actions(shop.name, shop.name), "the next candidate waits")
    server.act(shop.name, shop.name, "reject")
    shop.wait("Healthy", commit)
    shop.sync()
    assert shop.run.now["spec"]["promotion"] == {"mode": "Manual", "approve": 1, "reject": 2}
    assert [row.get("promoted") for row in shop.run.now["status"]["iterations"][1:]] == [True, False]


def test_answers_in_git_and_answers_by_hand(team: Callable[[str], Team], server: ArgoServer) -> None:
    shop = team("argo-asks")
    shop.push(manifest(promotion={"mode": "Manual"}, iterations={"max": 3}))
    shop.follow()
    shop.run.wait("Reconciling", "AwaitingApproval")
    commit = shop.push(manifest(promotion={"mode": "Manual", "approve": 1}, iterations={"max": 3}), "approve")
    shop.until(lambda: shop.run.now["status"]["progress"] == "1/3", "Git's answer is taken")
    shop.run.wait("Reconciling", "AwaitingApproval")

    shop.follow(whole=True)
    shop.until(lambda: "approve" in server.actions(shop.name, shop.name), "the next candidate waits")
    server.act(shop.name, shop.name, "approve")
    shop.until(lambda: shop.run.now["status"]["progress"] == "2/3", "the answer by action is taken")
    shop.wait("Suspended", commit)
    shop.sync()
    assert shop.run.now["spec"]["promotion"] == {"mode": "Manual", "approve": 2}


def test_a_later_wave_waits_until_the_run_is_done(team: Callable[[str], Team]) -> None:
    shop = team("argo-waves")
    shop.kubelet.endings[shop.name] = until_stage("fit-q")
    wave = {"annotations": {"argocd.argoproj.io/sync-wave": "1"}}
    commit = shop.push(manifest(), "first", NOTE | {"metadata": NOTE["metadata"] | wave})
    shop.follow()
    shop.until(lambda: "waiting for healthy state" in shop.status.get("operationState", {}).get("message", ""), "waits")
    assert shop.lab.get("ConfigMap", shop.name, "team").code == 404
    del shop.kubelet.endings[shop.name]
    shop.wait("Healthy", commit)
    assert shop.lab.get("ConfigMap", shop.name, "team").code == 200


def test_the_example_run_stays_when_it_is_taken_out_of_git(team: Callable[[str], Team]) -> None:
    shop = team("argo-keeps")
    [protected] = example("runs/shop-assistant.yaml")
    option = "argocd.argoproj.io/sync-options"
    note = {option: protected["metadata"]["annotations"][option]}
    commit = shop.push(manifest(note))
    shop.follow()
    shop.wait("Healthy", commit)
    uid, ran = shop.run.uid, shop.kubelet.jobs(shop.name)
    commit = shop.push(None, "out of Git")
    shop.until(lambda: shop.synced == ("OutOfSync", commit) and shop.idle, "Argo CD has looked, and leaves it")
    assert shop.run.uid == uid
    shop.wait("Healthy", shop.push(manifest(note), "back in Git"))
    assert (shop.run.uid, shop.kubelet.jobs(shop.name)) == (uid, ran)
