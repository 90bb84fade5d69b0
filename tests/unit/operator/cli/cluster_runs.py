"""Runs on the API server that `ippo` meets."""

from datetime import UTC, datetime

from ippo_operator.api.status import to_rfc3339
from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.fake_server import Server
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import ToyController, ToyOperator, run_manifest

KEPT = {"succeededSeconds": 315_360_000, "failedSeconds": 315_360_000}
"""The toy's Jobs end in the past; their pods are to stay."""


def begin(server: Server, name: str = "small", namespace: str = "team", **spec: object) -> ToyOperator:
    server.api.now = to_rfc3339(datetime.now(UTC))
    metadata = {"name": name, "namespace": namespace}
    spec = {"cleanup": KEPT} | spec
    server.api.put("iterativepporuns", run_manifest(**spec) | {"metadata": metadata})
    operator = ToyOperator(server.api)
    operator.now = datetime.now(UTC)
    return operator


def finish(server: Server, ending: object = good_result, **spec: object) -> None:
    begin(server, **spec).finish(ToyController(server.api, ending))  # type: ignore[arg-type]


def crash(spec: StageSpec) -> StageResult | tuple[int, str]:
    return (1, "ZeroDivisionError") if spec.stage == "fit-q" else good_result(spec)
