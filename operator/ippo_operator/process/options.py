"""What `ippo-operator` can be told, by flags or by environment variables."""

import argparse
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ippo_trainer.contract.command_line import Parser

from ippo_operator.manifests.identity import MANAGER
from ippo_operator.manifests.platform import Platform
from ippo_operator.process.logs import LogFormat

PREFIX = "IPPO_OPERATOR_"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ABOUT = """\
Carries every IterativePPORun of a cluster through its loop: collect, fit-q, improve, evaluate, promote; with Jobs,
until the run is done, across crashes, preemptions and upgrades.

It needs the CRD of IterativePPORun in the cluster. In a pod it takes its service account, elsewhere $KUBECONFIG or
~/.kube/config as kubectl does. Any number of processes may run: one holds a Lease and acts, the others stand by.
"""
_EXAMPLES = """\
examples:
  ippo-operator --image registry.example/team/ippo-trainer:TAG
  ippo-operator --image … --namespace team-a --namespace team-b     needs Roles in these namespaces only
  IPPO_OPERATOR_IMAGE=… IPPO_OPERATOR_NAMESPACE=team-a,team-b ippo-operator --log-format json

while it runs:
  GET :8080/livez     503 if a restart would help        GET :8080/readyz    503 if the API server does not answer
  GET :8080/metrics   for Prometheus

Every flag is also an environment variable: IPPO_OPERATOR_ and the flag's name, lists with commas. Flags come first.
SIGTERM ends passes that are under way, releases the Lease and stops. It is safe to kill at any time.
"""


@dataclass(frozen=True)
class Options:
    """The operator's settings."""

    platform: Platform
    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_name: str
    identity: str
    workers: int
    resync: float
    port: int
    log_format: LogFormat
    log_level: str
    context: str | None


def parse(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Options:
    """The settings; exits with 64 and one line on stderr if they are wrong."""
    parser = Parser(
        prog="ippo-operator", description=_ABOUT, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_arguments(parser, environment)
    flags = parser.parse_args(argv)
    if not flags.image:
        parser.error("--image (or IPPO_OPERATOR_IMAGE) is missing: the image with ippo-stage that runs the stages")
    if flags.user != "none" and not flags.user.isdecimal():
        parser.error(f"--user is {flags.user}; it has to be a number, or none")
    texts = flags.namespace or [environment.get(f"{PREFIX}NAMESPACE", "")]
    namespaces = tuple(dict.fromkeys(name for text in texts for name in text.split(",") if name))
    if flags.workers < 1 or flags.resync_seconds <= 0:
        parser.error("--workers and --resync-seconds have to be above 0")
    return Options(
        platform=Platform(
            image=flags.image,
            serve_image=flags.serve_image,
            image_pull_policy=flags.image_pull_policy or None,
            user=None if flags.user == "none" else int(flags.user),
        ),
        namespaces=namespaces,
        lease_namespace=flags.lease_namespace or _own_namespace(environment),
        lease_name=flags.lease_name,
        identity=f"{environment.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        workers=flags.workers,
        resync=flags.resync_seconds,
        port=flags.port,
        log_format=flags.log_format,
        log_level=flags.log_level,
        context=flags.context,
    )


def _add_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    def default(name: str, otherwise: str = "") -> str:
        return environment.get(PREFIX + name, otherwise)

    add = parser.add_argument
    add("--image", default=default("IMAGE"), help="image of the stages, where a run names none; required")
    add(
        "--serve-image",
        default=default("SERVE_IMAGE"),
        help="image with vLLM, for servers and stages that use it, where a run names none",
    )
    add(
        "--image-pull-policy",
        choices=("", "Always", "IfNotPresent", "Never"),
        default=default("IMAGE_PULL_POLICY"),
        metavar="POLICY",
        help="Always, IfNotPresent or Never, where a run says nothing (default: Kubernetes decides)",
    )
    add("--user", default=default("USER", "65532"), help="user and group of pods; `none` leaves it to the image")
    add(
        "--namespace",
        action="append",
        default=None,
        help="look after the runs of this namespace only; repeatable (default: all namespaces)",
    )
    add("--lease-namespace", default=default("LEASE_NAMESPACE"), help="where the Lease is (default: the pod's own)")
    add("--lease-name", default=default("LEASE_NAME", MANAGER), help="name of the Lease (default: %(default)s)")
    add("--workers", type=int, default=default("WORKERS", "16"), help="runs worked on at once (default: %(default)s)")
    add(
        "--resync-seconds",
        type=float,
        default=default("RESYNC_SECONDS", "300"),
        help="how often all runs are looked at although nothing happened (default: %(default)s)",
    )
    add("--port", type=int, default=default("PORT", "8080"), help="of probes and metrics (default: %(default)s)")
    add("--log-format", choices=("json", "text"), default=default("LOG_FORMAT", "text"), help="(default: %(default)s)")
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=default("LOG_LEVEL", "info"),
        help="(default: %(default)s)",
    )
    add("--context", default=default("CONTEXT") or None, help="context of the kubeconfig (default: the current one)")


def _own_namespace(environment: Mapping[str, str]) -> str:
    namespace = environment.get("POD_NAMESPACE")
    if namespace:
        return namespace
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.exists() else "default"
