"""The client: pages, names of errors, retries, preconditions, server-side apply, the fence."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    FencedError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    from_response,
)
from ippo_operator.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, RUNS, resource_of

from tests.kit.fake_api import FakeApi, answer


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more}}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", InvalidError),
        (401, "Unauthorized", UnauthorizedError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (408, "Timeout", UnavailableError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", GoneError),
        (418, "Teapot", ApiError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (504, "Timeout", UnavailableError),
    ],
)
def test_refusals_have_names(code: int, reason: str, kind: type[ApiError]) -> None:
    error = from_response(code, {}, {"reason": reason, "message": "two\nlines"})
    assert type(error) is kind
    assert (str(error), error.status, error.reason) == ("two lines", code, reason)


def test_an_answer_that_is_no_status_is_an_error_too() -> None:
    error = from_response(502, {"Retry-After": "soon"}, "<html>")
    assert type(error) is UnavailableError
    assert (str(error), error.retry_after) == ("HTTP 502", None)
    assert from_response(429, {}, {"details": {"retryAfterSeconds": 7}}).retry_after == 7


def test_lists_are_read_page_by_page() -> None:
    api = FakeApi()
    for number in range(450):
        api.put("configmaps", config_map(f"c{number:03d}", labels={"half": str(number % 2)}))
    client = Client(api)
    found = run(client.list(CONFIG_MAPS, None))
    assert [item["metadata"]["name"] for item in found] == [f"c{number:03d}" for number in range(450)]
    assert len(api.calls) == 5
    assert len(run(client.list(CONFIG_MAPS, "default", labels="half=1"))) == 225


def test_what_is_not_there_is_none_or_gone() -> None:
    client = Client(FakeApi())
    assert run(client.get(JOBS, "default", "nothing")) is None
    run(client.delete(JOBS, "default", "nothing", uid="any"))


def test_delete_means_one_object_and_no_namesake() -> None:
    api = FakeApi()
    api.put("configmaps", config_map("c"))
    with pytest.raises(ConflictError):
        run(Client(api).delete(CONFIG_MAPS, "default", "c", uid="another"))
    assert api.all("configmaps")


def test_apply_owns_its_fields_and_leaves_others_alone() -> None:
    api = FakeApi()
    client = Client(api)
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"paused": False}}
    run(client.apply(DEPLOYMENTS, "default", "d", manifest, manager="ippo-operator"))
    [made] = api.all("deployments")
    api.edit("deployments", "default", "d", spec=made["spec"] | {"replicas": 5})
    run(client.apply(DEPLOYMENTS, "default", "d", manifest | {"spec": {"paused": True}}, manager="ippo-operator"))
    assert api.all("deployments")[0]["spec"] == {"paused": True, "replicas": 5}
    assert api.calls[-1].query == {"fieldManager": "ippo-operator", "force": "true"}


def test_the_fence_is_asked_before_every_attempt_to_write() -> None:
    api, open_for = FakeApi(), iter([True, False])

    def fence() -> None:
        if not next(open_for):
            raise FencedError("lost meanwhile")

    async def no_wait(_: float) -> None:
        return

    api.before = lambda _number, _request: answer(503, "ServiceUnavailable")
    client = Client(api, fence, RetryPolicy(attempts=5), sleep=no_wait)
    with pytest.raises(FencedError):
        run(client.create(CONFIG_MAPS, "default", config_map("c")))
    assert len(api.calls) == 1


def test_paths() -> None:
    assert RUNS.path(None) == "/apis/ippo.dev/v1alpha1/iterativepporuns"
    assert RUNS.path("a", "b", "status") == "/apis/ippo.dev/v1alpha1/namespaces/a/iterativepporuns/b/status"
    assert CONFIG_MAPS.path("a", "x/../y") == "/api/v1/namespaces/a/configmaps/x%2F..%2Fy"
    assert resource_of({"apiVersion": "batch/v1", "kind": "Job"}) is JOBS
