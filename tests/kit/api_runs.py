"""Runs on a real API server: made, and waited for."""

import json
from typing import Any

from tests.kit.control_plane import RUNS, Api
from tests.kit.operator_process import Operator
from tests.kit.toy_cluster import run_manifest
from tests.kit.waiting import until


def create_run(api: Api, namespace: str, name: str = "small", **spec: Any) -> str:
    """A run with some fields of its spec replaced; its URL path."""
    answer = api.create(RUNS.format(namespace), run_manifest(**spec) | {"metadata": {"name": name}})
    assert answer.code == 201, answer.message
    return f"{RUNS.format(namespace)}/{name}"


def jobs(api: Api, namespace: str) -> list[dict[str, Any]]:
    """Of a namespace."""
    return list(api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs").body["items"])


def status_of(api: Api, path: str) -> dict[str, Any]:
    """Its status; an empty one before the first pass."""
    status: dict[str, Any] = api.get(path).body.get("status") or {}
    return status


def condition(api: Api, path: str, kind: str) -> dict[str, str]:
    """One of its conditions, with empty texts where there is none."""
    conditions = status_of(api, path).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {"status": "", "reason": "", "message": ""})


def stands(api: Api, path: str, kind: str) -> tuple[str, str]:
    """Status and reason of one of its conditions."""
    entry = condition(api, path, kind)
    return entry["status"], entry["reason"]


def wait_for(api: Api, path: str, kind: str, *operators: Operator, reason: str = "", seconds: float = 90) -> None:
    """Until the condition is True, for that reason; while the API server does not answer it is not."""

    def holds() -> bool:
        try:
            truth, why = stands(api, path, kind)
        except OSError:
            return False
        return truth == "True" and reason in {"", why}

    try:
        until(holds, f"{kind} {reason}", seconds)
    except TimeoutError as error:
        status = json.dumps(api.get(path).body.get("status"), indent=1)[-3000:]
        logs = "\n".join(operator.log.read_text()[-3000:] for operator in operators)
        raise AssertionError(f"{error}\n{status}\n{logs}") from None
