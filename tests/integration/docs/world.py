"""A cluster in which pages are carried out: a real API server and operator, and stand-ins for what runs pods.

Stages end at once, with figures, unless the page's scene asks for something else by a line in the file `$STAGES`:
`hold JOB` keeps a Job running, `fail JOB` ends it with exit code 65; JOB is how the Job's name begins. What pods log is
served by a stand-in for the kubelet. Ports are not forwarded: `curl` asks the process that the pod stands for.
"""

import json
import shutil
import ssl
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ippo_trainer.contract.params import Gate
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.stats.intervals import Interval
from moto.server import ThreadedMotoServer

from tests.kit.control_plane import RUNS, Api, ControlPlane
from tests.kit.doc_pages import blocks
from tests.kit.doc_scenes import Scene
from tests.kit.doc_shell import Done, Shell, work_folder
from tests.kit.operator_process import Operator
from tests.kit.planner_world import good_result
from tests.kit.toy_controllers import StandIn
from tests.kit.waiting import until

NODE = "node-1"
BUCKETS = ("sales-models", "my-bucket", "shop-assistant", "ippo")
KEYS = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
STAGE_LOG = "2026-11-26T14:02:11Z INFO improving the policy: 12/24 updates, 0.7/s, 17 s left, kl=0.31, q_mean=0.19\n"
FOREIGN_KINDS = {
    "Application": ("argoproj.io", "v1alpha1"),
    "GitRepository": ("source.toolkit.fluxcd.io", "v1"),
    "Kustomization": ("kustomize.toolkit.fluxcd.io", "v1"),
    "ServiceMonitor": ("monitoring.coreos.com", "v1"),
    "PrometheusRule": ("monitoring.coreos.com", "v1"),
    "Workload": ("kueue.x-k8s.io", "v1beta1"),
    "ClusterQueue": ("kueue.x-k8s.io", "v1beta1"),
}
"""Of other projects, as far as pages name them: any fields."""
_KUBECTL = """\
#!/bin/bash
case " $* " in
  *" port-forward "*) exec {kubectl} "$@" --help > /dev/null ;;
  *" get "*" --watch "*) timeout 3 {kubectl} "$@"; code=$?; [ "$code" = 124 ] && code=0; exit "$code" ;;
  *) exec {kubectl} "$@" ;;
esac
"""
_IPPO = """\
#!/bin/bash
exec {ippo} "${{@//http:\\/\\/127.0.0.1:9000/$S3_URL}}"
"""
_CURL = """\
#!/bin/bash
case " $* " in
  *localhost:8000*) exit 0 ;;
  *) exec {curl} "${{@//localhost:8080/localhost:$OPERATOR_PORT}}" ;;
esac
"""
_GIT = """\
#!/bin/bash
# once a tool follows the repository, a push is followed by what the tool does
{git} -c user.name=ada -c user.email=ada@git.example "$@" || exit
case " $* " in
  *" push "*) [ ! -e followed ] || {kubectl} apply --server-side --field-manager=gitops -k "$2/runs" ;;
esac
"""


class Stages(StandIn):
    """As `$STAGES` says."""

    def __init__(self, api: Api, orders: Path) -> None:
        super().__init__(api, self._end)
        self._orders = orders
        self._held: set[str] = set()
        orders.touch()

    def _look_at(self, job: dict[str, Any]) -> None:
        try:
            super()._look_at(job)
        except (AssertionError, KeyError) as error:  # of a run that the page deleted, whose Jobs nobody collects
            self.errors.append(f"{job['metadata']['name']}: {error}")

    def _ordered(self, order: str, job: str) -> bool:
        lines = (line.split() for line in self._orders.read_text().splitlines())
        return any(line[0] == order and job.startswith(line[1]) for line in lines if len(line) == 2)

    def _end(self, spec: StageSpec) -> StageResult | tuple[int, str]:
        if self._ordered("fail", f"{spec.run}-i{spec.iteration}-{spec.stage}"):
            text = "log.jsonl: no such file"
            return 65, json.dumps({"error": {"reason": "InvalidData", "message": text}})
        if spec.stage != "evaluate":
            return good_result(spec)
        before = {"successCurrent": 0.04, "valueCurrent": 0.0302}
        figures = {"success": 0.214, "value": 0.1702, "exactShareOfOptimum": 0.513, **before}
        lift = Interval(0.1400, 0.1191, 0.1613)
        inputs = GateInputs(lift, None, None, "2000 pairs of conversations on the same seeds")
        return good_result(spec, metrics=figures, decision=decide(Gate(), inputs))

    def _run(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        if not self._ordered("hold", metadata["name"]):
            super()._run(job)
            return
        if metadata["uid"] in self._held:
            return
        self._held.add(metadata["uid"])
        for index in range(job["spec"]["completions"]):
            pod = _pod(job, index)
            self._api.create(f"/api/v1/namespaces/{metadata['namespace']}/pods", pod)
            running = {"name": "stage", "state": {"running": {}}, "ready": True, "restartCount": 0}
            status = {"phase": "Running", "containerStatuses": [running | {"image": "stages", "imageID": "stages"}]}
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{pod['metadata']['name']}/status"
            self._api.merge(path, {"status": status})

    def _pod(self, job: dict[str, Any], index: int, code: int, message: str) -> None:
        template = job["spec"]["template"]
        placed = template | {"spec": template["spec"] | {"nodeName": NODE}}
        super()._pod(job | {"spec": job["spec"] | {"template": placed}}, index, code, message)


def _pod(job: Mapping[str, Any], index: int) -> dict[str, Any]:
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"]
        | {"name": f"{metadata['name']}-{index}", "ownerReferences": [owner | {"controller": True}]},
        "spec": template["spec"] | {"nodeName": NODE},
    }


class Kubelet:
    """Serves the logs of pods, as the API server asks for them. Use as a context manager.

    Args:
        folder: for its certificate.
        operators_log: what the operator's pod logs; every other pod logs how far a stage is.
    """

    def __init__(self, folder: Path, operators_log: Path) -> None:
        class Logs(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = operators_log.read_bytes() if "/ippo-operator-" in self.path else STAGE_LOG.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Logs)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _certificate(folder: Path) -> Path:
    """A key and its own certificate, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NODE)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "kubelet.pem"
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    return path


class World:
    """The cluster, a bucket store, and a reader's shell in front of both. Use as a context manager.

    Args:
        assets: the folder with etcd, kube-apiserver and kubectl.
        helm: the program.
        folder: for everything.
    """

    def __init__(self, assets: Path, helm: str, folder: Path) -> None:
        self._assets, self._helm, self._folder = assets, helm, folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            plane = stack.enter_context(ControlPlane(self._assets, self._folder / "plane"))
            moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
            moto.start()
            stack.callback(moto.stop)
            host, port = moto.get_host_and_port()
            self._operator = Operator(plane, self._folder, "--lease-namespace", "ippo-system")
            self._operator.log.touch()
            kubelet = stack.enter_context(Kubelet(self._folder, self._operator.log))
            self._prepare(plane, kubelet.port, f"http://{host}:{port}")
            self._stages = stack.enter_context(Stages(plane.api, self._folder / "stages"))
            stack.callback(self._operator.kill)
            threading.Thread(target=self._operate, args=(plane.api,), daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _operate(self, api: Api) -> None:
        """Starts the operator once there is something for it to do, as its pod's restarts would."""
        until(lambda: api.get(RUNS.format("default")).code == 200, "a page installs the CRD", 600)
        self._operator.start()

    def _prepare(self, plane: ControlPlane, kubelet: int, store: str) -> None:
        self._store = store
        for kind, (group, version) in FOREIGN_KINDS.items():
            answer = plane.api.create(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _any_kind(kind, group, version)
            )
            assert answer.code == 201, answer.message
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet}},
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": status}
        assert plane.api.create("/api/v1/nodes", node).code == 201
        client = boto3.client("s3", endpoint_url=store, **KEYS)  # type: ignore[call-overload]
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        work = self._folder / "work"
        work.mkdir()
        (work / "my-aws-credentials").write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
        self.shell = Shell(
            work_folder(work),
            KUBECONFIG=str(plane.kubeconfig),
            STAGES=str(self._folder / "stages"),
            S3_URL=store,
            AWS_DEFAULT_REGION="us-east-1",
            AWS_SHARED_CREDENTIALS_FILE=str(work / "my-aws-credentials"),
            OPERATOR_PORT=str(self._operator.port),
        )
        programs = {
            "kubectl": str(self._assets / "kubectl"),
            "helm": self._helm,
            "ippo": str(Path(sys.executable).parent / "ippo"),
            **{name: str(shutil.which(name)) for name in ("curl", "git")},
        }
        self.shell.program("helm", f'#!/bin/sh\nexec {self._helm} "$@"\n')
        for name, text in {"kubectl": _KUBECTL, "ippo": _IPPO, "curl": _CURL, "git": _GIT}.items():
            self.shell.program(name, text.format(**programs))

    def carry_out(self, scene: Scene) -> Done:
        """Runs the scene; the page's runs are in files that are called after them."""
        for block in blocks(scene.page):
            if block.language == "yaml" and "kind: IterativePPORun" in block.code:
                name = yaml.safe_load(block.code)["metadata"]["name"]
                text = block.code.replace("http://minio.storage:9000", self._store)
                (self.shell.folder / f"{name}.yaml").write_text(text)
        return self.shell.carry_out(scene)


def _any_kind(kind: str, group: str, version: str) -> dict[str, Any]:
    plural = f"{kind[:-1].lower()}ies" if kind.endswith("y") else f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    scope = "Cluster" if kind == "ClusterQueue" else "Namespaced"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": names, "versions": [served]},
    }
