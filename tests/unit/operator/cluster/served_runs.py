"""Runs that serve, on the fake API."""

from typing import Any

from ippo_operator.manifests import identity

from tests.kit.fake_api import FakeApi, Object
from tests.kit.toy_cluster import ToyController, ToyOperator, begin, edit, stands, status_of

SERVE: dict[str, Any] = {"serve": {"progressDeadlineSeconds": 600}}


def begin_serving(**spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    """A run that is going to serve."""
    return begin(**SERVE | spec)


def finished(**spec: Any) -> tuple[FakeApi, ToyOperator, ToyController]:
    """A run that is done, and serves."""
    api, operator, controller = begin_serving(**spec)
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    return api, operator, controller


def deployment(api: FakeApi) -> Object:
    return api.objects["deployments", "team", "small"]


def served(api: FakeApi) -> str:
    return str(deployment(api)["spec"]["template"]["metadata"]["annotations"][identity.POLICY_DIGEST])


def promoted(api: FakeApi, iteration: int | None = None) -> str:
    if iteration is None:
        return str(status_of(api)["policy"]["artifact"]["digest"])
    return next(str(row["policy"]) for row in status_of(api)["iterations"] if row["iteration"] == iteration)


def writes(api: FakeApi, begin_at: int = 0) -> list[str]:
    return [f"{request.method} {request.path}" for request in api.calls[begin_at:] if request.writes]


def only(*digests: str) -> Any:
    """Servers of other policies than these never get ready."""
    return lambda template: template["metadata"]["annotations"][identity.POLICY_DIGEST] in digests


def rolling() -> tuple[FakeApi, ToyOperator, ToyController, str]:
    """A run whose second policy is being rolled out, and the digest of the first."""
    api, operator, controller = finished()
    good = promoted(api)
    controller.serves = only(good)
    edit(api, iterations={"max": 2})
    operator.rest(controller)
    assert stands(api, "Reconciling") == ("True", "RollingOut")
    return api, operator, controller, good
