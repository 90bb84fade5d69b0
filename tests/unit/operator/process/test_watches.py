"""kopf's settings and handlers, what its session asks for, and a thread that has nothing to talk to."""

import asyncio
import itertools
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, RUNS, SERVICES
from ippo_operator.process import watches
from ippo_operator.process.watches import CHILDREN, Watches, decisive, settings

from .test_workers import until


class Listener:
    """Takes down what it is told, and in which thread's event loop."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def run_changed(self, key: Any, version: str) -> None:
        self._take("changed", key, version)

    def run_deleted(self, key: Any) -> None:
        self._take("deleted", key)

    def child_changed(self, key: Any, delay: float) -> None:
        self._take("child", key, delay)

    def _take(self, *words: Any) -> None:
        assert asyncio.get_running_loop()
        self.told.append(words)


def test_children_are_selected_by_the_server_and_nothing_is_posted() -> None:
    values = settings(["team"])
    assert len(values.watching.label_selectors) == len(CHILDREN)
    assert set(values.watching.label_selectors.values()) == {"ippo.dev/run-uid"}
    assert set(values.watching.field_selectors.values()) == {"status.phase!=Succeeded,status.phase!=Failed"}
    assert values.scanning.disabled
    assert not settings([]).scanning.disabled
    assert not values.posting.enabled
    assert isinstance(values.watching.server_timeout, int)


def test_a_job_that_is_over_or_gone_wakes_its_run_at_once_and_one_that_starts_does_not() -> None:
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    nearly = {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Failed", "status": "False"}]}
    assert decisive(JOBS.plural, "MODIFIED", done)
    assert decisive(JOBS.plural, "DELETED", {})
    assert decisive(DEPLOYMENTS.plural, "MODIFIED", {})
    assert decisive(SERVICES.plural, "DELETED", {})
    assert not decisive(JOBS.plural, "ADDED", {})
    assert not decisive(JOBS.plural, "MODIFIED", {"active": 1} | nearly)
    assert not decisive(PODS.plural, "MODIFIED", {"phase": "Running"})


def run_manifest(version: str) -> dict[str, Any]:
    metadata = {"name": "small", "namespace": "team", "uid": "u", "resourceVersion": version}
    return {"metadata": metadata, "kind": RUNS.kind, "apiVersion": RUNS.api_version}


class ApiServer:
    """Discovery of the kinds, one run in the list, and no watch that lasts."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.accepted: dict[tuple[str, bool], str] = {}
        self.version = 1
        self.app = web.Application()
        self.app.router.add_get("/{path:.*}", self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.strip("/").split("/")
        if path == ["apis"]:
            groups = {one.group: one.version for one in (RUNS, *CHILDREN) if one.group}
            listed = [
                {"name": name, "preferredVersion": {"version": v}, "versions": [{"version": v}]}
                for name, v in groups.items()
            ]
            return web.json_response({"groups": listed})
        if path == ["api"]:
            return web.json_response({"versions": ["v1"]})
        here = [one for one in (RUNS, *CHILDREN) if one.api_version == "/".join(path[1:])]
        if here or path == ["api", "v1"]:
            kinds = here or [one for one in CHILDREN if not one.group]
            extra = [("namespaces", "Namespace", False)] if path == ["api", "v1"] else []
            names = [(one.plural, one.kind, True) for one in kinds] + extra
            verbs = ["list", "watch", "patch"]
            resources = [
                {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs}
                for plural, kind, namespaced in names
            ]
            return web.json_response({"resources": resources})
        self.accepted[path[-1], "watch" in request.query] = request.headers["Accept"]
        if path[-1] in self.refused:
            return web.json_response({"kind": "Status", "message": "no"}, status=self.refused[path[-1]])
        if "watch" in request.query:
            await asyncio.sleep(0.05)
            return web.Response(body=b"")
        items = [run_manifest(str(self.version))] if path[-1] == RUNS.plural else None  # as the API server has it
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})


async def watching_of(api: ApiServer, listener: Listener, scene: Any) -> None:
    async with TestServer(api.app) as server:
        url = str(server.make_url("")).rstrip("/")
        watching = Watches(listener, lambda: Login(url), ["team"])
        watching.start()
        try:
            await scene(watching)
        finally:
            await watching.stop()
        assert not watching._thread.is_alive()


def test_no_more_is_asked_of_objects_than_the_handlers_need() -> None:
    api, listener = ApiServer(), Listener()
    kinds = [one.plural for one in (RUNS, *CHILDREN)]

    async def scene(_: Watches) -> None:
        await until(lambda: {(kind, watch) for kind in kinds for watch in (False, True)} <= set(api.accepted))

    asyncio.run(asyncio.wait_for(watching_of(api, listener, scene), 60))
    for (kind, watch), accept in api.accepted.items():
        whole = watch and kind == "jobs"  # its status tells whether the run goes on
        assert ("as=PartialObjectMetadata" in accept) == (kind in kinds and not whole)
        assert ("as=PartialObjectMetadataList" in accept) == (kind in kinds and not watch)


def test_a_kind_that_is_refused_is_a_problem_until_it_is_not_and_holds_up_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches.Backoffs, "__iter__", lambda _: itertools.repeat(0.05))
    api, listener = ApiServer(), Listener()
    api.refused["jobs"] = 403

    async def scene(watching: Watches) -> None:
        await until(lambda: watching.problem == "403 Forbidden for /apis/batch/v1/namespaces/team/jobs")
        await until(lambda: ("changed", ("team", "small"), "1") in listener.told)
        api.refused.clear()
        await until(lambda: watching.problem is None)

    asyncio.run(asyncio.wait_for(watching_of(api, listener, scene), 60))


def test_a_kind_that_is_gone_has_kopf_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_PAUSE", 0.05)
    monkeypatch.setattr(watches, "_GRACE", 0.05)
    api, listener = ApiServer(), Listener()

    async def scene(watching: Watches) -> None:
        await until(lambda: ("changed", ("team", "small"), "1") in listener.told)
        api.refused[RUNS.plural] = 404
        await until(lambda: "404 Not Found" in str(watching.problem))
        api.version = 2
        api.refused.clear()
        await until(lambda: ("changed", ("team", "small"), "2") in listener.told)
        assert watching.problem is None
        api.version = 3  # nothing tells of it: a restart looks anew
        watching.restart()
        await until(lambda: ("changed", ("team", "small"), "3") in listener.told)

    asyncio.run(asyncio.wait_for(watching_of(api, listener, scene), 60))


def test_without_a_server_it_stops_all_the_same() -> None:
    async def scene() -> None:
        watching = Watches(Listener(), lambda: Login("https://127.0.0.1:1"), ["team"])
        watching.start()
        await asyncio.sleep(0.5)
        await watching.stop()
        assert not watching._thread.is_alive()

    asyncio.run(asyncio.wait_for(scene(), 60))
