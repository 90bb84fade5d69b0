"""A control plane with the real controllers and scheduler, one node in name only, and processes that can be broken."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ippo_operator.api.crd import custom_resource_definition

from tests.kit.control_plane import RUNS, ControlPlane
from tests.kit.waiting import until

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = f"{CRDS}/iterativepporuns.ippo.dev"
NODE = "/api/v1/nodes/n1"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "job-controller",
    "deployment-controller",
    "endpointslice-controller",
    "replicaset-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "persistentvolume-binder-controller",
    "persistentvolumeclaim-protection-controller",
    "resourcequota-controller",
    "serviceaccount-controller",
)
_ROOM = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "1Ti"}


class Cluster(ControlPlane):
    """As ControlPlane, with the scheduler and controllers of namespaces, garbage, workloads, volumes, quotas, accounts.

    Service account admission is on. Pods that the scheduler binds do not run: see Kubelet.
    """

    def __init__(self, assets: Path, folder: Path) -> None:
        super().__init__(assets, folder)
        self._programs: dict[str, tuple[subprocess.Popen[bytes], tuple[str, ...]]] = {}

    @staticmethod
    def can_run(assets: Path) -> bool:
        """Whether the folder has all programs; setup-envtest's has no controllers."""
        return all((assets / program).exists() for program in PROGRAMS)

    def _run(self, program: str, *arguments: str) -> None:
        flags = list(arguments)
        if "--disable-admission-plugins" in flags:
            at = flags.index("--disable-admission-plugins")
            del flags[at : at + 2]
        super()._run(program, *flags)
        self._programs[program] = (self._processes[-1], tuple(flags))

    def _start(self) -> None:
        super()._start()
        common = ("--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--secure-port=0")
        self._run("kube-controller-manager", *common, "--controllers", ",".join(_CONTROLLERS))
        self._run("kube-scheduler", *common)
        self.install()
        self.add_node()
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        until(lambda: self.api.get(account).code == 200, "the service account controller works", 60)

    def install(self) -> None:
        """The CRD; waits until it is served."""
        answer = self.api.create(CRDS, custom_resource_definition())
        assert answer.code == 201, answer.message
        until(lambda: self.api.get(RUNS.format("default")).code == 200, "the CRD is served")

    def add_node(self) -> None:
        """A node that is ready and takes pods."""
        answer = self.api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        assert answer.code == 201, answer.message
        self.has_room()
        self.api.merge(NODE, {"spec": {"taints": None}})

    def has_room(self, **more: str) -> None:
        """What the node has to give, beside CPUs and memory."""
        answer = self.api.merge(f"{NODE}/status", {"status": {"capacity": _ROOM | more, "allocatable": _ROOM | more}})
        assert answer.code == 200, answer.message

    @contextmanager
    def stopped(self, program: str) -> Iterator[None]:
        """The program stands still, its connections stay open."""
        process, _ = self._programs[program]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    @contextmanager
    def slow(self, program: str, still: float, moving: float) -> Iterator[None]:
        """The program stands still for so many seconds, works for so many, and so on."""
        process, _ = self._programs[program]
        over = threading.Event()

        def pulse() -> None:
            while not over.is_set():
                process.send_signal(signal.SIGSTOP)
                over.wait(still)
                process.send_signal(signal.SIGCONT)
                over.wait(moving)

        thread = threading.Thread(target=pulse, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def restart(self, program: str) -> None:
        """Kills the program and starts it as it was; waits until the API server answers."""
        process, arguments = self._programs[program]
        process.kill()
        process.wait()
        self._processes.remove(process)
        self._run(program, *arguments)
        until(self._answers, f"the API server answers after a restart of {program}", 60)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.api.get("/readyz").code == 200
        return False
