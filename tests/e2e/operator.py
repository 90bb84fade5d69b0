"""The chart, installed with Helm."""

from pathlib import Path
from types import TracebackType
from typing import Self

from .kube import Kube, until
from .place import ROOT

NAMESPACE, RELEASE = "ippo-system", "ippo-operator"
CHART = ROOT / "charts" / "ippo-operator"


class Operator:
    """A release; use as a context manager.

    Args:
        kube: the cluster.
        flags: of helm, beyond the images.
        chart: its folder.
    """

    def __init__(self, kube: Kube, *flags: str, chart: Path = CHART) -> None:
        self._kube = kube
        self._flags = flags
        self._chart = chart

    def __enter__(self) -> Self:
        try:
            self.helm("install", "--create-namespace", *self._flags)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.logs()[-6000:])
        self.remove()

    def helm(self, verb: str, *flags: str, chart: Path | None = None) -> None:
        """install or upgrade."""
        place = self._kube.place
        images = ("--set", f"image={place.operator_image}", "--set", f"stageImage={place.trainer_image}")
        command = [
            "helm",
            verb,
            RELEASE,
            str(chart or self._chart),
            "--namespace",
            NAMESPACE,
            "--wait",
            *images,
            *flags,
        ]
        done = self._kube.call(*command, seconds=600)
        assert done.returncode == 0, done.stderr + self._kube.call("kubectl", "events", "-n", NAMESPACE).stdout[-2000:]

    def remove(self) -> None:
        """Uninstalls the release; the CRD stays."""
        self._kube.call("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--ignore-not-found")

    def logs(self) -> str:
        """Of the process that runs now."""
        return self._kube.call("kubectl", "logs", "-n", NAMESPACE, f"deployment/{RELEASE}").stdout

    def pod(self) -> str:
        """The name of the pod that holds the Lease, once one does."""
        return str(until(self._holder, "an operator's pod holds the Lease", every=0.5))

    def kill(self) -> None:
        """kill -9 of the pod that holds the Lease."""
        self._kube.kubectl("delete", "pod", self.pod(), "-n", NAMESPACE, "--grace-period=0", "--force")

    def _holder(self) -> str:
        lease = self._kube.find("lease", NAMESPACE, RELEASE)
        holder = (lease or {}).get("spec", {}).get("holderIdentity", "").partition("_")[0]
        names = {pod["metadata"]["name"] for pod in self._kube.list("pods", NAMESPACE)}
        return str(holder) if holder in names else ""
