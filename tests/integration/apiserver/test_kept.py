"""The Deployment and the Service of a run: what others write into them goes again, field by field, or is theirs.

One table says which. Each edit is one that people and controllers make with kubectl, an autoscaler or a mesh.
"""

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.mending import Repair, mend, repair
from ippo_operator.cluster.resources import resource_of
from ippo_operator.cluster.servers import leave_replicas
from ippo_operator.cluster.transport import Request, Response
from ippo_operator.manifests.additions import OVERWRITER
from ippo_operator.manifests.identity import MANAGER
from ippo_operator.manifests.serving import serving_deployment, serving_service

from tests.kit.cluster_objects import POLICY, cluster_run, serving_context
from tests.kit.control_plane import Api

Object = dict[str, Any]
POD = "/spec/template/spec"
SERVER = f"{POD}/containers/0"
PODS = {
    "serve": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "0.5"}, "limits": {"memory": "2048Mi"}},
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "volumes": [{"name": "cache", "mountPath": "/cache", "emptyDir": {}}],
    },
    "common": {"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}]},
}
TOKEN = 6  # its place among the variables
SIDECAR = {"name": "sidecar", "image": "x"}


class Edit(NamedTuple):
    """A JSON Patch, and whether what it does is put back."""

    kind: str
    what: str
    patch: list[Object]
    kept_out: bool = True


def edit(kind: str, what: str, *changes: tuple[str, Any], kept_out: bool = True) -> Edit:
    operations = [
        {"op": "remove", "path": path} if value is ... else {"op": "add", "path": path, "value": value}
        for path, value in changes
    ]
    return Edit(kind, what, operations, kept_out)


SERVICE = [
    edit("Service", "a key more in the selector", ("/spec/selector/version", "v2")),
    edit("Service", "a key less in the selector", ("/spec/selector/app.kubernetes.io~1component", ...)),
    edit("Service", "another selector", ("/spec/selector", {"app": "mine"})),
    edit("Service", "no selector", ("/spec/selector", ...)),
    edit("Service", "a port more", ("/spec/ports/-", {"name": "other", "port": 81, "protocol": "TCP"})),
    edit("Service", "another port", ("/spec/ports/0/port", 81)),
    edit("Service", "another target", ("/spec/ports/0/targetPort", 81)),
    edit("Service", "another name of the port", ("/spec/ports/0/name", "web")),
    edit("Service", "a protocol of the port", ("/spec/ports/0/appProtocol", "kubernetes.io/h2c")),
    edit("Service", "a node port", ("/spec/type", "NodePort")),
    edit("Service", "a load balancer", ("/spec/type", "LoadBalancer"), ("/spec/externalTrafficPolicy", "Local")),
    edit(
        "Service",
        "a load balancer of some",
        ("/spec/type", "LoadBalancer"),
        ("/spec/loadBalancerSourceRanges", ["10.0.0.0/8"]),
    ),
    edit("Service", "another name's", ("/spec/type", "ExternalName"), ("/spec/externalName", "a.example")),
    edit("Service", "sticky clients", ("/spec/sessionAffinity", "ClientIP")),
    edit("Service", "servers of the same node", ("/spec/internalTrafficPolicy", "Local")),
    edit("Service", "servers of the same zone", ("/spec/trafficDistribution", "PreferClose")),
    edit("Service", "servers that are not ready", ("/spec/publishNotReadyAddresses", True)),
    edit("Service", "addresses from outside", ("/spec/externalIPs", ["192.0.2.1"])),
    edit("Service", "no label", ("/metadata/labels/ippo.dev~1run-uid", ...)),
    edit("Service", "another label of ours", ("/metadata/labels/ippo.dev~1run", "x")),
    edit("Service", "a label more", ("/metadata/labels/team", "a"), kept_out=False),
    edit("Service", "an annotation", ("/metadata/annotations", {"cloud.example/neg": "{}"}), kept_out=False),
    edit("Service", "a finalizer", ("/metadata/finalizers", ["example.com/lb"]), kept_out=False),
]
DEPLOYMENT = [
    edit("Deployment", "other replicas", ("/spec/replicas", 7), kept_out=False),
    edit("Deployment", "paused", ("/spec/paused", True)),
    edit("Deployment", "another deadline", ("/spec/progressDeadlineSeconds", 5)),
    edit("Deployment", "another history", ("/spec/revisionHistoryLimit", 0)),
    edit("Deployment", "seconds until it counts", ("/spec/minReadySeconds", 60)),
    edit("Deployment", "another strategy", ("/spec/strategy", {"type": "Recreate"})),
    edit("Deployment", "a bolder strategy", ("/spec/strategy/rollingUpdate/maxUnavailable", 1)),
    edit("Deployment", "another image", (f"{SERVER}/image", "evil:1")),
    edit("Deployment", "arguments", (f"{SERVER}/args", ["--max-waiting", "1"])),
    edit("Deployment", "another command", (f"{SERVER}/command", ["sleep"])),
    edit("Deployment", "a longer command", (f"{SERVER}/command/-", "--x")),
    edit("Deployment", "a variable", (f"{SERVER}/env/-", {"name": "EVIL", "value": "1"})),
    edit("Deployment", "a variable less", (f"{SERVER}/env/0", ...)),
    edit("Deployment", "variables from elsewhere", (f"{SERVER}/envFrom", [{"secretRef": {"name": "s"}}])),
    edit("Deployment", "another working directory", (f"{SERVER}/workingDir", "/tmp")),
    edit("Deployment", "another port of the server", (f"{SERVER}/ports/0/containerPort", 9)),
    edit("Deployment", "a port of the server", (f"{SERVER}/ports/-", {"containerPort": 9})),
    edit("Deployment", "another probe", (f"{SERVER}/readinessProbe/httpGet/path", "/")),
    edit("Deployment", "a slower probe", (f"{SERVER}/readinessProbe/initialDelaySeconds", 90)),
    edit("Deployment", "no probe", (f"{SERVER}/livenessProbe", ...)),
    edit("Deployment", "another hook", (f"{SERVER}/lifecycle/postStart", {"exec": {"command": ["x"]}})),
    edit("Deployment", "other limits", (f"{SERVER}/resources/limits/cpu", "1")),
    edit("Deployment", "other requests", (f"{SERVER}/resources/requests/cpu", "2")),
    edit("Deployment", "a privilege", (f"{SERVER}/securityContext/allowPrivilegeEscalation", True)),
    edit("Deployment", "a writable disk", (f"{SERVER}/securityContext/readOnlyRootFilesystem", False)),
    edit("Deployment", "another pull policy", (f"{SERVER}/imagePullPolicy", "Always")),
    edit("Deployment", "a mount", (f"{SERVER}/volumeMounts/-", {"name": "ippo-tmp", "mountPath": "/x"})),
    edit("Deployment", "a mount less", (f"{SERVER}/volumeMounts/0", ...)),
    edit("Deployment", "a sidecar by hand", (f"{POD}/containers/-", SIDECAR)),
    edit("Deployment", "a sidecar in front", (f"{POD}/containers/0", SIDECAR)),
    edit("Deployment", "an init container", (f"{POD}/initContainers/0", {"name": "first", "image": "x"})),
    edit("Deployment", "another fetch", (f"{POD}/initContainers/0/command", ["true"])),
    edit("Deployment", "a volume", (f"{POD}/volumes/-", {"name": "x", "emptyDir": {}})),
    edit("Deployment", "another volume", (f"{POD}/volumes/0/emptyDir/medium", "Memory")),
    edit("Deployment", "a label of nodes", (f"{POD}/nodeSelector/disk", "ssd")),
    edit("Deployment", "no label of nodes", (f"{POD}/nodeSelector", ...)),
    edit("Deployment", "a toleration", (f"{POD}/tolerations/-", {"operator": "Exists"})),
    edit("Deployment", "no toleration", (f"{POD}/tolerations", ...)),
    edit("Deployment", "a name of a node", (f"{POD}/nodeName", "n1")),
    edit("Deployment", "another scheduler", (f"{POD}/schedulerName", "mine")),
    edit("Deployment", "a host's network", (f"{POD}/hostNetwork", True), (f"{POD}/dnsPolicy", "Default")),
    edit("Deployment", "another account", (f"{POD}/serviceAccountName", "admin")),
    edit("Deployment", "another account by its older name", (f"{POD}/serviceAccount", "admin")),
    edit(
        "Deployment",
        "another kind of probe",
        (f"{SERVER}/readinessProbe/httpGet", ...),
        (f"{SERVER}/readinessProbe/tcpSocket", {"port": 1}),
    ),
    edit(
        "Deployment",
        "another kind of hook",
        (f"{SERVER}/lifecycle/preStop", {"exec": {"command": ["x"]}}),
    ),
    edit(
        "Deployment",
        "another kind of volume",
        (f"{POD}/volumes/0", {"name": "cache", "hostPath": {"path": "/"}}),
    ),
    edit(
        "Deployment",
        "a value instead of a Secret",
        (f"{SERVER}/env/{TOKEN}/valueFrom", ...),
        (f"{SERVER}/env/{TOKEN}/value", "x"),
    ),
    edit(
        "Deployment",
        "another profile",
        (f"{POD}/securityContext/seccompProfile", {"type": "Localhost", "localhostProfile": "x"}),
    ),
    edit(
        "Deployment",
        "its own name servers",
        (f"{POD}/dnsPolicy", "None"),
        (f"{POD}/dnsConfig", {"nameservers": ["192.0.2.1"]}),
    ),
    edit("Deployment", "its token", (f"{POD}/automountServiceAccountToken", True)),
    edit("Deployment", "a shorter grace", (f"{POD}/terminationGracePeriodSeconds", 30)),
    edit("Deployment", "root", (f"{POD}/securityContext/runAsNonRoot", False)),
    edit("Deployment", "a group", (f"{POD}/securityContext/supplementalGroups", [0])),
    edit("Deployment", "another spread", (f"{POD}/topologySpreadConstraints/0/maxSkew", 5)),
    edit(
        "Deployment",
        "an affinity",
        (f"{POD}/affinity", {"nodeAffinity": {}, "podAffinity": {}}),
        (f"{POD}/hostname", "h"),
    ),
    edit("Deployment", "no label of ours", ("/metadata/labels/ippo.dev~1run-uid", ...)),
    edit("Deployment", "another policy's name", ("/metadata/annotations/ippo.dev~1policy-digest", "sha256:1")),
    edit("Deployment", "a label", ("/metadata/labels/team", "a"), kept_out=False),
    edit("Deployment", "an annotation", ("/metadata/annotations/team", "a"), kept_out=False),
    edit(
        "Deployment",
        "a restart",
        ("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt", "2026-01-31T12:00:00Z"),
        kept_out=False,
    ),
    edit("Deployment", "a mesh", ("/spec/template/metadata/labels/sidecar.istio.io~1inject", "true"), kept_out=False),
]


class Wire:
    """The tests' plain requests as the client's Transport."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.writes = 0

    async def send(self, request: Request, timeout: float) -> Response:
        self.writes += request.writes
        query = f"?{urlencode(request.query)}" if request.query else ""
        answer = self._api.request(request.method, request.path + query, request.body, request.content_type)
        only = "PartialObjectMetadata" in request.accept and answer.code < 300
        return Response(answer.code, {}, {"metadata": answer.body["metadata"]} if only else answer.body)


class Kept:
    """The two objects, as they are kept."""

    def __init__(self, api: Api) -> None:
        self.api, self.wire = api, Wire(api)
        self._client = Client(self.wire)
        run = cluster_run("kept", pods=PODS)
        made = (
            serving_deployment(serving_context(run), POLICY),
            serving_service(serving_context(run)),
        )
        self.wanted = {manifest["kind"]: manifest for manifest in made}

    def path(self, kind: str) -> str:
        metadata = self.wanted[kind]["metadata"]
        return resource_of(self.wanted[kind]).path(metadata["namespace"], metadata["name"])

    def found(self, kind: str) -> Object | None:
        answer = self.api.get(self.path(kind))
        return dict(answer.body) if answer.code == 200 else None

    def patch(self, made: Edit) -> None:
        body: Any = made.patch
        answer = self.api.request("PATCH", self.path(made.kind), body, "application/json-patch+json")
        assert answer.code == 200, answer.message

    def apply(self, kind: str, spec: Object, manager: str) -> None:
        wanted = self.wanted[kind]
        metadata = wanted["metadata"] if manager == MANAGER else {"name": "kept"}
        body = {"apiVersion": wanted["apiVersion"], "kind": kind, "metadata": metadata, "spec": spec}
        query = urlencode({"fieldManager": manager, "force": "true"})
        answer = self.api.request("PATCH", f"{self.path(kind)}?{query}", body, "application/apply-patch+yaml")
        assert answer.code == 200, answer.message

    def due(self, kind: str) -> Repair | None:
        wanted, found = copy.deepcopy(self.wanted[kind]), self.found(kind)
        if kind == "Deployment":
            leave_replicas(wanted, found)
        return repair(wanted, found)

    def wrong(self, kind: str) -> bool:
        return self.due(kind) is not None

    def mend(self, kind: str) -> str:
        due = self.due(kind)
        assert due is not None
        asyncio.run(mend(self._client, due))
        return str(due)


@pytest.fixture
def kept(api: Api) -> Iterator[Kept]:
    kept = Kept(api)
    for kind in kept.wanted:
        kept.mend(kind)
    yield kept
    for kind in kept.wanted:
        api.merge(kept.path(kind), {"metadata": {"finalizers": None}})
        api.delete(kept.path(kind))


def essence(found: Object | None) -> Object:
    """Spec and labels; a Service that was a mere name gets another address."""
    assert found is not None
    spec = {name: value for name, value in found["spec"].items() if name not in {"clusterIP", "clusterIPs"}}
    return {"spec": spec, "labels": found["metadata"]["labels"]}


@pytest.mark.parametrize("made", [*SERVICE, *DEPLOYMENT], ids=lambda made: f"{made.kind}: {made.what}")
def test_an_edit_by_hand_is_put_back_or_is_somebody_elses(kept: Kept, made: Edit) -> None:
    assert not kept.wrong(made.kind), "nothing is wrong before"
    before = copy.deepcopy(essence(kept.found(made.kind)))
    kept.patch(made)
    after = essence(kept.found(made.kind))
    if not made.kept_out:
        assert not kept.wrong(made.kind)
        return
    assert after != before or "annotations" in json.dumps(made.patch), "the edit does nothing"
    told = kept.mend(made.kind)
    assert essence(kept.found(made.kind)) == before
    assert not kept.wrong(made.kind), "once is enough"
    assert told.startswith(f"{made.kind} kept was changed by ")


APPLIED: list[tuple[str, str, Object]] = [
    ("Deployment", "an account", {"template": {"spec": {"serviceAccountName": "admin"}}}),
    ("Deployment", "an account by its older name", {"template": {"spec": {"serviceAccount": "admin"}}}),
    ("Deployment", "a host's network", {"template": {"spec": {"hostNetwork": True}}}),
    ("Deployment", "a volume", {"template": {"spec": {"volumes": [{"name": "x", "secret": {"secretName": "s"}}]}}}),
    ("Deployment", "an init container", {"template": {"spec": {"initContainers": [{"name": "first", "image": "x"}]}}}),
    ("Deployment", "arguments", {"template": {"spec": {"containers": [{"name": "server", "args": ["x"]}]}}}),
    ("Service", "sticky clients", {"sessionAffinity": "ClientIP"}),
    ("Service", "a node port", {"type": "NodePort"}),
    ("Service", "a load balancer", {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
]


@pytest.mark.parametrize(("kind", "what", "spec"), APPLIED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_another_manager_applies_goes_with_the_defaults_that_follow_from_it(
    kept: Kept, kind: str, what: str, spec: Object
) -> None:
    """Such defaults are in nobody's books, not even in those of who applied."""
    before = essence(kept.found(kind))
    kept.apply(kind, spec, "helm")
    assert essence(kept.found(kind)) != before, "it does nothing"
    kept.mend(kind)
    assert essence(kept.found(kind)) == before
    assert not kept.wrong(kind), "once is enough"


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_what_somebody_applies_in_our_name_goes_too(kept: Kept, kind: str) -> None:
    before = essence(kept.found(kind))
    more: Object = {"externalIPs": ["192.0.2.1"]} if kind == "Service" else {"minReadySeconds": 60}
    kept.apply(kind, kept.wanted[kind]["spec"] | more, MANAGER)
    assert essence(kept.found(kind)) != before
    kept.mend(kind)
    assert essence(kept.found(kind)) == before
    assert not kept.wrong(kind)


def test_who_overwrites_what_cannot_be_applied_beside_another_field_owns_nothing_of_it(kept: Kept) -> None:
    theirs = Edit("Deployment", "theirs", [change for made in DEPLOYMENT if not made.kept_out for change in made.patch])
    kept.patch(theirs)
    before = essence(kept.found("Deployment"))
    kept.patch(next(made for made in DEPLOYMENT if made.what == "another kind of probe"))
    kept.mend("Deployment")
    deployment = kept.found("Deployment")
    assert deployment is not None
    assert essence(deployment) == before
    assert OVERWRITER not in {entry["manager"] for entry in deployment["metadata"]["managedFields"]}


def test_what_others_may_set_stays_while_all_else_is_put_back(kept: Kept) -> None:
    allowed = [change for made in DEPLOYMENT if not made.kept_out for change in made.patch]
    kept.patch(Edit("Deployment", "all of theirs", allowed))
    theirs = kept.found("Deployment")
    assert theirs is not None
    kept.patch(edit("Deployment", "arguments", (f"{SERVER}/args", ["x"])))
    kept.mend("Deployment")
    deployment = kept.found("Deployment")
    assert deployment is not None
    assert deployment["spec"] == theirs["spec"]
    assert deployment["metadata"]["annotations"] == theirs["metadata"]["annotations"]


def test_what_nobody_wrote_stays_as_a_webhook_would_put_it_in_again(kept: Kept) -> None:
    """A mutating webhook's sidecar is in no one's books."""
    deployment = kept.found("Deployment")
    assert deployment is not None
    sidecar = {"name": "istio-proxy", "image": "proxy:1"}
    deployment["spec"]["template"]["spec"]["containers"].append(sidecar)
    deployment["spec"]["template"]["spec"]["volumes"].append({"name": "istio-envoy", "emptyDir": {}})
    assert repair(kept.wanted["Deployment"], deployment) is None


def test_many_edits_at_once_are_put_back_in_two_writes(kept: Kept) -> None:
    before = essence(kept.found("Deployment"))
    for made in DEPLOYMENT:
        if made.what in {"arguments", "a sidecar by hand", "an init container", "paused", "a toleration", "a volume"}:
            kept.patch(made)
    writes = kept.wire.writes
    kept.mend("Deployment")
    assert essence(kept.found("Deployment")) == before
    assert kept.wire.writes - writes == 2
