"""An operator and a run that come from Git, and what must be true of them whichever tool brings them."""

import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.integration.gitops.repository import Repository

from . import artifacts
from .kube import MINUTES, Kube, Object, condition, story, until
from .operator import CHART, NAMESPACE, RELEASE
from .place import ROOT
from .runs import Runs

URL = "http://127.0.0.1:7080"
"""Where the lab serves its repositories."""
CRD = "iterativepporuns.ippo.dev"
RUN = "shop-assistant"
STAGES = 5
"""Of a run of one iteration, with its warm start; four more for each other iteration."""
_FOLDER = "runs/"
_OWNED = "jobs,pods,configmaps,deployments,services"


class Repositories:
    """The folder that the lab serves.

    Args:
        folder: the same for as long as the lab is up: its Git server is started once.
        trees: for working trees.
    """

    def __init__(self, folder: Path, trees: Path) -> None:
        self._folder = folder
        self._trees = trees

    def new(self, name: str) -> tuple[Repository, str]:
        """A repository with one commit, and its address."""
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        repository, url = Repository(self._folder, unique, self._trees), f"{URL}/{unique}.git"
        repository.write("README.md", f"{name}\n")
        repository.push("new")
        answer = subprocess.run(["git", "ls-remote", url], capture_output=True, text=True)
        assert answer.returncode == 0, (
            f"the lab's Git server serves another folder than {self._folder}: {answer.stderr}"
        )
        return repository, url


def push_rendered(kube: Kube, repository: Repository) -> str:
    """What `make manifests` has in deploy/, made by Helm with this place's images; returns the commit."""
    images = ("--set", f"image={kube.place.operator_image}", "--set", f"stageImage={kube.place.trainer_image}")
    done = kube.call("helm", "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *images)
    assert done.returncode == 0, done.stderr
    deploy = ROOT / "deploy"
    repository.write("deploy/kustomization.yaml", (deploy / "kustomization.yaml").read_text())
    repository.write("deploy/ippo-operator.yaml", (deploy / "namespace.yaml").read_text() + done.stdout)
    return repository.push("the operator, rendered")


def push_chart(repository: Repository) -> str:
    """The chart as it is; returns the commit."""
    for file in sorted(CHART.rglob("*")):
        if file.is_file():
            repository.write(str(file.relative_to(ROOT)), file.read_text())
    return repository.push("the operator's chart")


def clear(kube: Kube) -> None:
    """No operator, no CRD: Helm installs over nothing that another tool made."""
    kube.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=120s")
    kube.remove(NAMESPACE)
    everywhere = "clusterroles,clusterrolebindings"
    kube.kubectl("delete", everywhere, "-l", "app.kubernetes.io/name=ippo-operator", "--ignore-not-found")


def check_only_the_crd_is_left(kube: Kube) -> None:
    """After the operator was taken away."""
    until(lambda: kube.find("deployment", NAMESPACE, RELEASE) is None, "the operator's Deployment is gone")
    until(lambda: kube.find("clusterrole", "", RELEASE) is None, "its ClusterRole is gone")
    assert kube.get("crd", "", CRD)["status"]["acceptedNames"]["kind"] == "IterativePPORun"


class Shop:
    """A run in Git and its namespace; use as a context manager.

    Args:
        runs: the namespace.
        repository: with the folder runs/.
        sections: of the spec, beside what changes.
    """

    def __init__(self, runs: Runs, repository: Repository, **sections: Any) -> None:
        self.runs = runs
        self._repository = repository
        self._sections = sections

    def __enter__(self) -> Self:
        self.runs.prepare(enforce="restricted")
        note = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note", "namespace": self.runs.namespace}}
        # Argo CD does not prune an application empty by itself, and Flux needs the folder.
        self._repository.write(f"{_FOLDER}note.yaml", yaml.safe_dump(note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.story())
        self.runs.kube.remove(self.runs.namespace)

    def story(self) -> str:
        """What is to be read when something did not come to pass."""
        kube = self.runs.kube
        logs = kube.call("kubectl", "logs", "-n", NAMESPACE, f"deployment/{RELEASE}", "--tail", "40")
        return f"{story(kube, self.runs.namespace, RUN)}\n{logs.stdout}"

    # In Git

    def push(self, message: str, **sections: Any) -> str:
        """The run in Git from now on; returns the commit."""
        text = yaml.safe_dump(self.runs.manifest(RUN, **self._sections, **sections))
        return self._push(f"{_FOLDER}{RUN}.yaml", text, message)

    def push_readme(self) -> str:
        """A commit that changes no manifest."""
        return self._push("README.md", "nothing that matters\n", "a word to the reader")

    def take_out(self) -> str:
        """The run is no longer in Git."""
        return self._push(f"{_FOLDER}{RUN}.yaml", None, "out of Git")

    def _push(self, path: str, text: str | None, message: str) -> str:
        self._repository.write(path, text)
        return self._repository.push(message)

    # In the cluster

    @property
    def now(self) -> Object | None:
        """The run; None if it is not there."""
        return self.runs.kube.find("ippo", self.runs.namespace, RUN)

    def jobs(self) -> set[str]:
        """The UIDs of the run's Jobs."""
        return {job["metadata"]["uid"] for job in self._owned("jobs")}

    def _owned(self, kinds: str) -> list[Object]:
        return self.runs.kube.list(kinds, self.runs.namespace, "ippo.dev/run-uid")

    def work(self) -> Object:
        """What was done; whether its servers are ready at this moment is another matter."""
        run = self.runs.get(RUN)
        status = {name: value for name, value in run["status"].items() if name not in {"serving", "conditions"}}
        identity = {name: run["metadata"][name] for name in ("uid", "generation")}
        return {**identity, "status": status, "jobs": self.jobs()}

    def wait_suspended(self) -> None:
        """Until it is; no stage's pod is at work then."""
        run = self.runs.wait(RUN, "Suspended")
        assert condition(run, "Succeeded")[0] == "Unknown"
        pods = self.runs.kube.list("pods", self.runs.namespace, f"ippo.dev/run={RUN},ippo.dev/stage")
        assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}

    def wait_done(self, iterations: int) -> Object:
        """Until that many iterations are done; the run. One attempt of a stage was interrupted on the way."""

        def done() -> bool:
            run = self.runs.get(RUN)
            assert condition(run, "Stalled")[0] != "True", condition(run, "Stalled")
            return bool(run["status"].get("progress") == f"{iterations}/{iterations}")

        until(done, f"{iterations} iterations are done", 15 * MINUTES)
        run = self.runs.wait(RUN, "Succeeded")
        assert not run["status"].get("lastFailure")
        stages = STAGES + 4 * (iterations - 1)
        assert len(self.jobs()) == stages
        assert sum(self.runs.attempts(RUN).values()) == stages + 1
        return run

    def check_gone(self, published: artifacts.Files, uid: str) -> None:
        """The run and all that it owned are deleted, and its artifacts are not."""
        until(lambda: self.now is None, "the run is pruned")
        until(lambda: not self._owned(_OWNED), "what it owned is gone")
        kube = self.runs.kube
        assert kube.find("configmap", self.runs.namespace, "note") is not None
        assert artifacts.in_bucket(kube.place.store, self.runs.bucket, f"{RUN}/{uid}") == published
