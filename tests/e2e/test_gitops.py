"""The operator and a run come from Git: Flux and Argo CD apply them, steer the run, and take both away again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gitops.tools import Application, Kustomization, example

from . import artifacts
from .gitops import RUN, Repositories, Shop, check_only_the_crd_is_left, clear, push_chart, push_rendered
from .kube import Kube, condition, until
from .operator import CHART, NAMESPACE, RELEASE
from .place import Place, call
from .runs import Runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
SERVE = {"engine": "Transformers"}


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs on the PATH: {', '.join(missing)}")


@pytest.fixture(scope="module")
def lab(cluster: Place) -> Path:
    """The script that brings Flux and Argo CD up."""
    if cluster.lab is None:
        pytest.skip("needs a lab, which brings Flux and Argo CD up: IPPO_E2E_LAB, or no IPPO_E2E_KUBECONFIG")
    need("git")
    return cluster.lab


@pytest.fixture(scope="module")
def served(cluster: Place) -> Path:
    """The folder of the repositories that the lab serves. Among the lab's files: it goes with them."""
    folder = cluster.kubeconfig.parent / "repositories"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def repositories(served: Path, tmp_path: Path) -> Repositories:
    return Repositories(served, tmp_path)


@pytest.fixture
def flux(lab: Path, served: Path, kube: Kube) -> Iterator[None]:
    """Flux, in a cluster without operator and CRD."""
    call(lab, "flux", str(served))
    clear(kube)
    yield
    for kind in ("kustomization", "gitrepository"):
        kube.kubectl("delete", kind, "--all", "-n", Kustomization.system, "--timeout=180s")
    clear(kube)


@pytest.fixture
def argocd(lab: Path, served: Path, kube: Kube) -> Iterator[None]:
    """Argo CD that knows of runs, in a cluster without operator and CRD."""
    need("redis-server")
    call(lab, "argocd", str(served))
    customization = CHART / "files" / "argocd" / "argocd-cm.yaml"
    kube.kubectl("patch", "configmap", "argocd-cm", "-n", Application.system, "--patch-file", str(customization))
    clear(kube)
    yield
    kube.kubectl("delete", "application", "--all", "-n", Application.system, "--timeout=180s")
    clear(kube)


def wait_reported(kube: Kube, words: str, commit: str) -> None:
    """Until Flux has said this of a commit. In an Event: its condition may change before anybody reads it."""
    revision = "kustomize.toolkit.fluxcd.io/revision"

    def holds() -> bool:
        events = kube.list("events", Kustomization.system)
        told = (e["message"] for e in events if e["metadata"].get("annotations", {}).get(revision, "").endswith(commit))
        return any(words in message for message in told)

    until(holds, f"{words} of {commit}")


def test_flux(kube: Kube, bucket: str, flux: None, repositories: Repositories) -> None:
    operator = Kustomization(kube, "ippo-operator", every=1)
    repository, url = repositories.new("iterative-ppo")
    source, kustomization = example("flux/operator.yaml")
    source["spec"] |= {"url": url, "ref": {"branch": "main"}}
    # The images were given to Helm; the example gives them to Flux, as it takes deploy/ as it stands in the repository.
    del kustomization["spec"]["images"]
    kustomization["spec"]["patches"] = [
        patch for patch in kustomization["spec"]["patches"] if patch["target"]["kind"] == "CustomResourceDefinition"
    ]
    commit = push_rendered(kube, repository)
    kube.apply(source, kustomization)
    operator.wait_ready(commit)
    assert kube.get("deployment", NAMESPACE, RELEASE)["status"]["readyReplicas"] == 1

    repository, url = repositories.new("shop")
    source, kustomization = example("flux/runs.yaml")
    source["spec"] |= {"url": url, "interval": "2s"}
    del kustomization["spec"]["healthCheckExprs"]  # Ready is to mean done
    kustomization["spec"]["timeout"] = "30s"  # the shortest that Flux takes
    with Shop(Runs(kube, "e2e-gitops-flux", bucket), repository) as shop:
        runs = Kustomization(kube, "shop-runs", shop.story, every=1)
        in_progress = f"IterativePPORun/{shop.runs.namespace}/{RUN} status: 'InProgress'"
        commit = shop.push("a run")
        kube.apply(source, kustomization)
        # Half a minute long Flux waits for health and applies no other commit, so this one comes early.
        shop.runs.wait_stage(RUN, "collect")
        assert runs.ready()["status"] != "True"
        suspended = shop.push("suspend", suspend=True)
        wait_reported(kube, in_progress, commit)
        shop.wait_suspended()
        assert runs.ready()["status"] != "True"
        commit = shop.push("resume: suspend is taken out")
        wait_reported(kube, in_progress, suspended)
        run = shop.wait_done(1)
        runs.reconcile()
        runs.wait_ready(commit)
        version = shop.runs.get(RUN)["metadata"]["resourceVersion"]

        done, jobs = shop.work(), shop.jobs()
        runs.wait_ready(shop.push_readme())
        assert shop.runs.get(RUN)["metadata"]["resourceVersion"] == version
        assert shop.work() == done

        commit = shop.push("one more iteration", iterations={"max": 2})
        again = shop.wait_done(2)
        runs.reconcile()
        runs.wait_ready(commit)
        assert jobs < shop.jobs()
        assert again["status"]["iterations"][:2] == run["status"]["iterations"]
        assert condition(again, "Ready")[0] == "True"

        published = shop.runs.published(RUN)
        assert len(artifacts.ledger(published)) == 2
        commit = shop.take_out()
        shop.check_gone(published, run["metadata"]["uid"])
        runs.wait_ready(commit)

    for name in ("shop-runs", "ippo-operator"):
        kube.kubectl("delete", "kustomization", name, "-n", Kustomization.system, "--timeout=180s")
    check_only_the_crd_is_left(kube)


def test_argocd(kube: Kube, bucket: str, argocd: None, repositories: Repositories) -> None:
    operator = Application(kube, "ippo-operator", every=1)
    repository, url = repositories.new("iterative-ppo")
    [application] = example("argocd/operator.yaml")
    spec = application["spec"]
    spec["source"] |= {"repoURL": url, "targetRevision": "main"}
    del spec["source"]["helm"]["valuesObject"]["registry"]
    spec["source"]["helm"]["valuesObject"] |= {
        "image": kube.place.operator_image,
        "stageImage": kube.place.trainer_image,
    }
    commit = push_chart(repository)
    kube.apply(application)
    operator.wait("Healthy", commit)
    assert kube.get("deployment", NAMESPACE, RELEASE)["status"]["readyReplicas"] == 1

    repository, url = repositories.new("shop")
    [application] = example("argocd/runs.yaml")
    application["spec"]["source"]["repoURL"] = url
    application["spec"]["destination"]["namespace"] = "e2e-gitops-argocd"
    with Shop(Runs(kube, "e2e-gitops-argocd", bucket), repository, serve=SERVE) as shop:
        runs = Application(kube, "shop-runs", shop.story, every=1)

        def noticed(commit: str) -> str:
            runs.refresh()
            return commit

        commit = shop.push("a run")
        kube.apply(application)
        runs.wait("Progressing", commit)
        shop.runs.wait_stage(RUN, "fit-q")
        commit = noticed(shop.push("suspend", suspend=True))
        shop.wait_suspended()
        runs.wait("Suspended", commit)
        commit = noticed(shop.push("resume: suspend is taken out"))
        runs.wait("Progressing", commit)
        run = shop.wait_done(1)
        runs.wait("Healthy", commit)
        assert run["status"]["serving"]["active"]["digest"] == run["status"]["policy"]["artifact"]["digest"]

        done, jobs = shop.work(), shop.jobs()
        runs.wait("Healthy", noticed(shop.push_readme()))
        runs.sync()
        assert shop.work() == done

        commit = noticed(shop.push("one more iteration", iterations={"max": 2}))
        runs.wait("Progressing", commit)
        again = shop.wait_done(2)
        runs.wait("Healthy", commit)
        assert jobs < shop.jobs()
        assert again["status"]["iterations"][:2] == run["status"]["iterations"]

        published = shop.runs.published(RUN)
        assert len(artifacts.ledger(published)) == 2
        commit = noticed(shop.take_out())
        shop.check_gone(published, run["metadata"]["uid"])
        runs.wait("Healthy", commit)

    # What `argocd app delete` does.
    cascade = {"metadata": {"finalizers": ["resources-finalizer.argocd.argoproj.io"]}}
    kube.merge("application", Application.system, "ippo-operator", cascade)
    kube.kubectl("delete", "application", "ippo-operator", "-n", Application.system, "--timeout=180s")
    check_only_the_crd_is_left(kube)
