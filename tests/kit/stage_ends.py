"""How stages end in the hands of those that stand in for the kubelet."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.control_plane import Api

Ending: TypeAlias = Callable[[StageSpec], StageResult | tuple[int, str] | None]
"""Of a stage: a result, or an exit code and a termination message; None: it goes on for now."""


def now() -> str:
    """As Kubernetes writes a time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def end_of(api: Api, namespace: str, job: str, ending: Ending) -> tuple[int, str] | None:
    """Exit code and termination message of a Job's stage; None where it goes on, or its spec is gone."""
    config = api.get(f"/api/v1/namespaces/{namespace}/configmaps/{job}")
    if config.code != 200:
        return None
    end = ending(StageSpec.model_validate_json(config.body["data"]["spec.json"]))
    return (0, end.to_message().decode()) if isinstance(end, StageResult) else end


def terminated(code: int, message: str) -> dict[str, Any]:
    """The state of a container that ended now."""
    return {"terminated": {"exitCode": code, "message": message, "startedAt": now(), "finishedAt": now()}}


def phase_of(code: int) -> str:
    """Of a pod."""
    return "Failed" if code else "Succeeded"
