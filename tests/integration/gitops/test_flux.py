"""Runs that Flux applies from Git."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.control_plane import RUNS
from tests.kit.waiting import until

from .cluster import Lab
from .kubelet import Kubelet
from .repository import Repository
from .stories import Run, fails_at, manifest, until_stage
from .tools import Kustomization, example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SYSTEM = "flux-system"
ROOT = Path(__file__).parents[3]
NewRepository = Callable[[str], Repository]


class Team(Kustomization):
    """A namespace, its repository, and the Kustomization that brings one into the other."""

    def __init__(self, lab: Lab, kubelet: Kubelet, repository: Repository, name: str) -> None:
        super().__init__(lab, name, lambda: self.run.now)
        self.lab, self.kubelet, self.repository = lab, kubelet, repository
        self.run = Run(lab, name)
        lab.namespace(name)

    def follow(self, **spec: Any) -> None:
        """Has Flux apply the folder runs/ and wait for what it applied."""
        source, kustomization = example("flux/runs.yaml")
        for document in (source, kustomization):
            document["metadata"]["name"] = self.name
        source["spec"] |= {"url": f"{self.lab.url}/{self.name}.git", "interval": "2s"}
        whole = kustomization["spec"] | {"targetNamespace": self.name, "interval": "5s", "retryInterval": "2s"}
        whole["sourceRef"]["name"] = self.name
        for field in ("dependsOn", "healthCheckExprs"):
            del whole[field]
        whole |= {"timeout": "30s"} | spec  # the shortest that it takes
        self.lab.apply(source, kustomization | {"spec": whole})

    def push(self, text: str | None, message: str = "a change") -> str:
        """The run in Git from now on; None takes it out."""
        path = "runs/small.yaml"
        self.repository.write("runs/kustomization.yaml", yaml.safe_dump({"resources": ["small.yaml"] if text else []}))
        self.repository.write(path, text)
        return self.repository.push(message)


@pytest.fixture
def team(
    flux: Lab, kubelet: Kubelet, repository: NewRepository, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Team]]:
    made: list[Team] = []

    def new(name: str) -> Team:
        made.append(Team(flux, kubelet, repository(name), name))
        return made[-1]

    yield new
    for team in made:
        for kind in ("Kustomization", "GitRepository"):
            flux.api.delete(flux.path(kind, SYSTEM, team.name))
    assert kubelet.errors == []


def health(status: str, namespace: str) -> str:
    return f"IterativePPORun/{namespace}/small status: '{status}'"


def test_a_run_in_git_from_its_start_to_a_second_life(team: Callable[[str], Team]) -> None:
    shop = team("flux-shop")
    run, kubelet = shop.run, shop.kubelet
    kubelet.endings[shop.name] = until_stage("fit-q")
    commit = shop.push(manifest())
    shop.follow()
    shop.wait_told(health("InProgress", shop.name))

    run.wait_stage("fit-q")
    shop.push(manifest(suspend=True), "suspend")
    run.wait("Suspended")
    shop.wait_told(health("InProgress", shop.name))

    del kubelet.endings[shop.name]
    commit = shop.push(manifest(), "resume: suspend is taken out")
    shop.wait_ready(commit)
    assert run.condition("Succeeded") == ("True", "Completed")
    assert run.now["status"]["progress"] == "1/1"

    done, ran, uid = run.now, kubelet.jobs(shop.name), run.uid
    assert len(ran) == len(set(ran)) == 5
    shop.repository.write("README.md", "nothing that matters")
    shop.wait_ready(shop.repository.push("a commit that changes no manifest"))
    assert (run.now["metadata"]["resourceVersion"], kubelet.jobs(shop.name)) == (
        done["metadata"]["resourceVersion"],
        ran,
    )

    shop.wait_ready(shop.push(manifest(iterations={"max": 2}), "one more iteration"))
    assert run.condition("Succeeded") == ("True", "Completed")
    assert (run.uid, run.now["status"]["progress"]) == (uid, "2/2")
    assert kubelet.jobs(shop.name)[: len(ran)] == ran
    assert len(kubelet.jobs(shop.name)) == len(ran) + 4

    done = run.now
    shop.push(manifest(iterations={"max": 2}, seed=9), "what is immutable")
    shop.wait_told("spec.seed: Forbidden: is immutable since the run started")
    assert run.now == done
    shop.wait_ready(shop.push(manifest(iterations={"max": 2}), "put back"))
    assert run.now["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]

    ran = kubelet.jobs(shop.name)
    shop.push(None, "out of Git")
    until(lambda: not run.there, "the run is pruned")
    shop.wait_ready(shop.push(manifest(), "back in Git"))
    assert run.uid != uid
    assert len(kubelet.jobs(shop.name)) == len(ran) + 5


def test_a_run_that_cannot_go_on_fails_until_git_mends_it(team: Callable[[str], Team]) -> None:
    shop = team("flux-stalls")
    shop.kubelet.endings[shop.name] = fails_at("improve")
    retries = {"crashes": 0, "backoffSeconds": 0}
    shop.push(manifest(retries=retries))
    shop.follow()
    shop.wait_told(health("Failed", shop.name))
    assert shop.run.condition("Stalled") == ("True", "BudgetExhausted")
    del shop.kubelet.endings[shop.name]
    shop.wait_ready(shop.push(manifest(retries=retries | {"crashes": 1}), "once more"))
    assert shop.run.condition("Ready") == ("True", "Completed")


def test_a_candidate_is_approved_in_git(team: Callable[[str], Team]) -> None:
    shop = team("flux-asks")
    shop.push(manifest(promotion={"mode": "Manual"}))
    shop.follow()
    shop.run.wait("Reconciling", "AwaitingApproval")
    shop.wait_told(health("InProgress", shop.name))
    shop.wait_ready(shop.push(manifest(promotion={"mode": "Manual", "approve": 1}), "approve"))
    assert shop.run.condition("Promoted") == ("True", "Promoted")


def test_with_the_rules_of_the_example_an_accepted_run_is_enough(team: Callable[[str], Team]) -> None:
    shop = team("flux-rules")
    shop.kubelet.endings[shop.name] = until_stage("collect")
    commit = shop.push(manifest())
    [_, kustomization] = example("flux/runs.yaml")
    shop.follow(healthCheckExprs=kustomization["spec"]["healthCheckExprs"], timeout="20s")
    shop.wait_ready(commit)
    assert shop.run.condition("Reconciling")[0] == "True"
    shop.kubelet.endings[shop.name] = fails_at("collect", 65, "no outcome in the log")
    shop.wait_told(health("Failed", shop.name))


def test_the_example_run_stays_when_it_is_taken_out_of_git(team: Callable[[str], Team]) -> None:
    shop = team("flux-keeps")
    [protected] = example("runs/shop-assistant.yaml")
    note = {
        "kustomize.toolkit.fluxcd.io/prune": protected["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/prune"]
    }
    shop.follow()
    shop.wait_ready(shop.push(manifest(note)))
    uid = shop.run.uid
    shop.wait_ready(shop.push(None, "out of Git"))
    assert shop.run.uid == uid
    ran = shop.kubelet.jobs(shop.name)
    shop.wait_ready(shop.push(manifest(note), "back in Git"))
    assert (shop.run.uid, shop.kubelet.jobs(shop.name)) == (uid, ran)


def test_the_operator_comes_from_git_and_its_crd_stays(flux: Lab, repository: NewRepository) -> None:
    source, kustomization = example("flux/operator.yaml")
    git = repository("iterative-ppo")
    for file in sorted((ROOT / "deploy").glob("*.yaml")):
        git.write(f"deploy/{file.name}", file.read_text())
    commit = git.push("as in the repository")
    source["spec"] |= {"url": f"{flux.url}/iterative-ppo.git", "ref": {"branch": "main"}}
    flux.apply(source, kustomization)
    path = flux.path("Kustomization", SYSTEM, "ippo-operator")
    Kustomization(flux, "ippo-operator").wait_ready(commit)
    deployment = flux.get("Deployment", "ippo-system", "ippo-operator").body
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example/team/ippo-operator:")
    assert container["args"][0].startswith("--image=registry.example/team/ippo-trainer:")

    assert flux.api.delete(path).code == 200
    until(lambda: flux.api.get(path).code == 404, "everything that may be pruned is", 60)
    until(lambda: flux.get("Deployment", "ippo-system", "ippo-operator").code == 404, "the Deployment is gone", 60)
    assert flux.api.get(RUNS.format("default")).code == 200
