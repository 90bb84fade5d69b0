"""The chart in a cluster, with its operator as a process that has the rights and the arguments that the chart gives."""

from pathlib import Path

from tests.kit import api_runs
from tests.kit.control_plane import RUNS, ControlPlane
from tests.kit.operator_process import Operator
from tests.kit.waiting import until

from .conftest import make_namespace
from .helm import apply, container, objects, path, render
from .rights import Audit

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/iterativepporuns.ippo.dev"
CLUSTER_WIDE: tuple[str, ...] = ()
ROLES_ONLY = ("--set=watchNamespaces={roles-a,roles-b}", "--set=userRoles.create=false")


class Installed:
    """The release, two namespaces for runs, and the operator, not started yet.

    Args:
        plane: to install into.
        folder: for the operator's log.
        name: the namespaces begin with it.
        flags: of `helm template`.
    """

    def __init__(self, plane: ControlPlane, folder: Path, name: str, flags: tuple[str, ...]) -> None:
        self.api = plane.api
        self.namespaces = [make_namespace(plane.api, f"{name}-{part}") for part in ("a", "b")]
        self.own = make_namespace(plane.api, f"{name}-ops")
        self.objects = objects(render(*flags, "--set=resyncSeconds=5", namespace=self.own))
        for manifest in self.objects:
            answer = apply(plane.api, manifest)
            assert answer.code in {200, 201}, answer.message
        until(lambda: plane.api.get(RUNS.format("default")).code == 200, "the CRD is served")
        account = f"/api/v1/namespaces/{self.own}/serviceaccounts/ippo-operator/token"
        token = plane.api.create(account, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"})
        assert token.code == 201, token.message
        self.audit = Audit(plane.audit_log, f"system:serviceaccount:{self.own}:ippo-operator")
        kubeconfig = plane.kubeconfig_of(token.body["status"]["token"], f"kubeconfig-{name}")
        args = [arg for arg in container(self.objects)["args"] if not arg.startswith("--port=")]
        self.operator = Operator(plane, folder, *args, kubeconfig=kubeconfig)

    def remove(self) -> None:
        """Everything but the namespaces."""
        for place in self.namespaces:
            self.api.delete(RUNS.format(place))
            self.api.delete(f"/apis/batch/v1/namespaces/{place}/jobs")
        for manifest in reversed(self.objects):
            self.api.delete(path(manifest))
        until(lambda: self.api.get(CRD).code == 404, "the CRD is gone")


def wait_for(installed: Installed, run: str, kind: str, reason: str = "") -> None:
    api_runs.wait_for(installed.api, run, kind, installed.operator, reason=reason, seconds=60)
