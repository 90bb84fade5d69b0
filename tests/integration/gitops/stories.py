"""Manifests of these tests, and what is asked of a run again and again."""

from typing import Any

import yaml
from ippo_trainer.contract.spec import StageSpec

from tests.kit.planner_world import good_result
from tests.kit.stage_ends import Ending
from tests.kit.toy_cluster import RUN
from tests.kit.waiting import until

from .cluster import Lab


def manifest(annotations: dict[str, str] | None = None, **spec: Any) -> str:
    """A run of one iteration as it stands in Git, without a namespace."""
    metadata = {"name": "small"} | ({"annotations": annotations} if annotations else {})
    return yaml.safe_dump(RUN | {"metadata": metadata, "spec": RUN["spec"] | spec})


def until_stage(stage: str) -> Ending:
    """All goes well up to a stage of iteration 1, which goes on and on."""
    return lambda spec: None if _is(spec, stage) else good_result(spec)


def fails_at(stage: str, code: int = 1, message: str = "boom") -> Ending:
    """All goes well but a stage of iteration 1, always."""
    return lambda spec: (code, message) if _is(spec, stage) else good_result(spec)


def _is(spec: StageSpec, stage: str) -> bool:
    return (spec.stage, spec.iteration) == (stage, 1)


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
        """The object; an empty one where there is none."""
        answer = self._lab.get("IterativePPORun", self.namespace, "small")
        return answer.body if answer.code == 200 else {"metadata": {}, "status": {}}

    @property
    def uid(self) -> str:
        return str(self.now["metadata"]["uid"])

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason; empty where there is none."""
        conditions = [c for c in self.now["status"].get("conditions", ()) if c["type"] == kind]
        return (conditions[0]["status"], conditions[0]["reason"]) if conditions else ("", "")

    def wait_stage(self, stage: str) -> None:
        """Until an attempt of that stage runs."""
        until(lambda: self._at(stage), f"{stage} runs", 60)

    def _at(self, stage: str) -> bool:
        status = self.now["status"]
        return status.get("stage") == stage and status.get("active", {}).get("observed") is True

    def wait(self, kind: str, reason: str = "", seconds: float = 90) -> None:
        """Until the condition is True and the newest spec was seen."""

        def holds() -> bool:
            run = self.now
            observed = run["status"].get("observedGeneration") == run["metadata"].get("generation")
            truth, why = self.condition(kind)
            return observed and truth == "True" and reason in {"", why}

        try:
            until(holds, f"{kind} {reason}", seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.now}") from None
