"""Customers and a business who talk to a gateway, in a Job of the run's namespace."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kit.doc_pages import ROOT

from .runs import Runs

PROGRAM = ROOT / "examples" / "shop" / "shop.py"
FOLDER = "/shop"
"""Where the shop's files are in a pod."""
TEA = (f"{ROOT / 'examples' / 'my_environment.py'}:TeaShop", {"asked": "0.8", "unasked": "0.05"})
"""An environment and its options: customers who buy when they were asked for their taste."""


@dataclass(frozen=True)
class Shop:
    """The shop of one run.

    Args:
        runs: the namespace.
        run: its name, whose gateway is asked.
        environment: name of a built-in one, or `FILE:CLASS`.
        options: of the environment; an option that is a file of this machine is one of the shop's files in a pod.
    """

    runs: Runs
    run: str
    environment: str
    options: dict[str, str]

    def log(self, path: Path, conversations: int) -> None:
        """What the business wrote before there was a policy, as the log that a run begins with."""
        command = [sys.executable, str(PROGRAM), "--log", str(path), "--conversations", str(conversations)]
        subprocess.run([*command, *self._customers("")], check=True, capture_output=True)

    def prepare(self, *files: Path) -> None:
        """The program, the environment's files and further ones, as a ConfigMap."""
        where = {"name": "shop", "namespace": self.runs.namespace}
        data = {path.name: path.read_text() for path in (PROGRAM, *self._own_files(), *files)}
        self.runs.kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": data})

    @contextmanager
    def open(self, customers: int | None = None) -> Iterator[None]:
        """Customers come: so many, or, without a number, others than these for as long as this is open."""
        visits = ["--forever", "--seed", "1"] if customers is None else ["--conversations", str(customers)]
        command = ["python", f"{FOLDER}/{PROGRAM.name}", "--url", f"http://{self.run}-gateway:8080", *visits]
        container = {
            "name": "shop",
            "image": self.runs.kube.place.trainer_image,
            "command": [*command, "--concurrency", "16", *self._customers(FOLDER)],
            "volumeMounts": [{"name": "shop", "mountPath": FOLDER}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "resources": {"limits": {"memory": "512Mi"}},
        }
        pod = {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "shop", "configMap": {"name": "shop"}}],
        }
        self.runs.kube.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "shop", "namespace": self.runs.namespace},
                "spec": {"template": {"spec": pod}, "backoffLimit": 3},
            }
        )
        try:
            yield
        finally:
            self.runs.kube.call("kubectl", "delete", "job", "shop", "-n", self.runs.namespace)

    def _customers(self, folder: str) -> list[str]:
        """Arguments that say who the customers are; their files are in that folder, or where they are here."""
        own = self._own_files()

        def there(value: str) -> str:
            file, colon, name = value.partition(":")
            return f"{folder}/{Path(file).name}{colon}{name}" if folder and Path(file) in own else value

        options = [text for name, value in self.options.items() for text in ("--option", f"{name}={there(value)}")]
        return ["--environment", there(self.environment), *options]

    def _own_files(self) -> list[Path]:
        values = [self.environment.partition(":")[0], *self.options.values()]
        return [Path(value) for value in values if Path(value).is_file()]
