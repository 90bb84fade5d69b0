"""Manifests of these tests, and what is asked of a run again and again."""

from pathlib import Path
from typing import Any

import yaml

from tests.integration.apiserver.server import until
from tests.unit.operator.cluster.toy_cluster import RUN

from .cluster import Lab

EXAMPLES = Path(__file__).parents[3] / "examples" / "gitops"
CRD = "iterativepporuns.ippo.dev"


def manifest(annotations: dict[str, str] | None = None, **spec: Any) -> str:
    """A run of one iteration as it stands in Git, without a namespace."""
    metadata = {"name": "small"} | ({"annotations": annotations} if annotations else {})
    return yaml.safe_dump(RUN | {"metadata": metadata, "spec": RUN["spec"] | spec})


def example(path: str, **replacements: str) -> list[dict[str, Any]]:
    """The documents of an example after some of its words were replaced."""
    text = (EXAMPLES / path).read_text()
    for before, after in replacements.items():
        text = text.replace(before, after)
    return list(yaml.safe_load_all(text))


class Run:
    """The run `small` of a namespace."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self._lab = lab
        self.namespace = namespace

    @property
    def there(self) -> bool:
        return self._lab.get("IterativePPORun", self.namespace, "small").code == 200

    @property
    def now(self) -> dict[str, Any]:
        """The object."""
        return self._lab.get("IterativePPORun", self.namespace, "small").body

    @property
    def uid(self) -> str:
        return str(self.now["metadata"]["uid"])

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason; empty where there is none."""
        found = [c for c in self.now.get("status", {}).get("conditions", ()) if c["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def wait(self, kind: str, reason: str = "", seconds: float = 90) -> None:
        """Until the condition is True and the newest spec was seen."""

        def holds() -> bool:
            run = self.now
            observed = run.get("status", {}).get("observedGeneration") == run.get("metadata", {}).get("generation")
            truth, why = self.condition(kind)
            return observed and truth == "True" and reason in {"", why}

        try:
            until(holds, f"{kind} {reason}", seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.now}") from None
