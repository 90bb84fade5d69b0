"""Lease, workers and resync in one event loop, on the fake API; its changes are the watch events."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from ippo_operator.cluster.client import Client, RetryPolicy
from ippo_operator.cluster.lease import Lease, LeaseTimes
from ippo_operator.cluster.reconcile import Reconciler
from ippo_operator.process.health import Health, Limits, application
from ippo_operator.process.metrics import CountingTransport, Metrics
from ippo_operator.process.workers import Workers, WorkPace

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.toy_cluster import PLATFORM, ToyController, attempts, condition, run_manifest, the_run

QUICK = LeaseTimes(duration=1, renew_every=0.05, margin=0.2)
PACE = WorkPace(workers=3, resync=3600, check=3600, drain=5)


class Process:
    """An operator's process without kopf. Use as an async context manager."""

    def __init__(self, api: FakeApi, name: str = "one", pace: WorkPace = PACE, watched: bool = True) -> None:
        self.api = api
        self.metrics = Metrics()
        transport = CountingTransport(api, self.metrics)
        self.lease = Lease(Client(transport, retries=RetryPolicy(attempts=1)), "ippo", "lock", name, QUICK)
        client = Client(transport, self.lease.check, RetryPolicy(attempts=1))
        reconciler = Reconciler(client, PLATFORM, name, watcher=self.metrics.status_written)
        self.renewals = 0
        self.workers = Workers(client, reconciler, self.lease, self.metrics, pace=pace, renew_watches=self._renew)
        self.watch_problem: str | None = None
        limits = Limits(stale=0.2, hanging=0.5, unanswered=0.5)
        self.health = Health(self.workers, lambda: self.watch_problem, limits)
        if watched:
            before = api.on_change

            def changed(kind: str, item: Object) -> None:
                before(kind, item)
                self.hear(kind, item)

            api.on_change = changed

    def _renew(self) -> None:
        self.renewals += 1

    def hear(self, kind: str, item: Object) -> None:
        """A watch event."""
        metadata = item["metadata"]
        name, run = metadata["name"], (metadata.get("labels") or {}).get("ippo.dev/run")
        if run is not None:
            self.workers.child_changed((metadata["namespace"], run), 0.0)
        elif item.get("kind") == "IterativePPORun" and kind == "DELETED":
            self.workers.run_deleted((metadata["namespace"], name))
        elif item.get("kind") == "IterativePPORun":
            self.workers.run_changed((metadata["namespace"], name), metadata["resourceVersion"])

    async def __aenter__(self) -> "Process":
        self.workers.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.workers.stop()


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, "it never came to hold"
        await asyncio.sleep(0.005)


async def drive(controller: ToyController, done: Callable[[], bool]) -> None:
    def step() -> bool:
        controller.step()
        return done()

    await until(step)


def succeeded(api: FakeApi, name: str = "small") -> bool:
    if not (the_run(api, name).get("status") or {}).get("conditions"):
        return False
    return bool(condition(api, "Succeeded", name)["status"] == "True")


def run(scene: Any) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def test_runs_are_carried_through_side_by_side() -> None:
    async def scene() -> None:
        api = FakeApi()
        controller = ToyController(api)
        names = [f"run-{number}" for number in range(6)]
        async with Process(api) as process:
            for name in names:
                api.put("iterativepporuns", run_manifest() | {"metadata": {"name": name, "namespace": "team"}})
            await drive(controller, lambda: all(succeeded(api, name) for name in names))
            text = process.metrics.text().decode()
        assert len(attempts(api)) == len(set(attempts(api))) == 30
        assert 'ippo_runs{phase="Succeeded"} 6.0' in text
        assert 'ippo_stage_attempts_total{reason="Completed",stage="collect"} 6.0' in text
        assert 'ippo_promotions_total{outcome="Promote"} 6.0' in text
        assert 'ippo_api_requests_total{code="201",method="POST",resource="jobs"} 30.0' in text
        assert "run-1" not in text

    run(scene())


def test_one_of_two_processes_acts_and_the_other_takes_over() -> None:
    async def scene() -> None:
        api = FakeApi()
        controller = ToyController(api)
        first, second = Process(api, "one"), Process(api, "two")
        async with second, first:
            await until(lambda: first.lease.held or second.lease.held)
            api.put("iterativepporuns", run_manifest())
            await drive(controller, lambda: len(attempts(api)) == 2)
            assert first.lease.held != second.lease.held
            holder, other = (first, second) if first.lease.held else (second, first)
            for task in holder.workers._tasks:  # as if it were killed: the lease is not released
                task.cancel()
            await until(lambda: other.lease.held)
            await drive(controller, lambda: succeeded(api))
        assert len(attempts(api)) == len(set(attempts(api))) == 5

    run(scene())


def test_what_no_watch_told_is_found_and_told_of() -> None:
    async def scene() -> None:
        api = FakeApi()
        pace = WorkPace(workers=1, resync=3600, check=0.05)
        async with Process(api, pace=pace, watched=False) as process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))
            await until(lambda: process.workers.index.stale_for > 0)
            await until(lambda: process.health.unhealthy() is not None)
            assert "missing changes" in str(process.health.unhealthy())
            assert process.renewals > 0

    run(scene())


def test_the_resync_looks_at_everything() -> None:
    async def scene() -> None:
        api = FakeApi()
        async with Process(api, pace=WorkPace(workers=1, resync=0.1, check=3600), watched=False):
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))

    run(scene())


def test_a_server_that_fails_is_asked_again() -> None:
    async def scene() -> None:
        api = FakeApi()
        down = True
        api.before = lambda _n, request: answer(500, "InternalError") if down and "leases" not in request.path else None
        async with Process(api) as process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: "UnavailableError" in process.metrics.text().decode())
            down = False
            await until(lambda: bool(attempts(api)))

    run(scene())


def test_a_server_that_asks_for_a_rest_is_not_asked_about_the_run_before() -> None:
    async def scene() -> None:
        api = FakeApi()
        busy = answer(429, "TooManyRequests", **{"Retry-After": "30"})
        api.before = lambda _n, request: busy if "leases" not in request.path else None
        async with Process(api) as process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(process.workers.queue._failures))
            [due] = process.workers.queue._due.values()
            assert 25 < due - process.workers.queue.clock() <= 30

    run(scene())


def test_a_run_whose_end_no_watch_told_of_is_forgotten_at_the_resync() -> None:
    async def scene() -> None:
        api = FakeApi()
        async with Process(api, pace=WorkPace(workers=1, resync=0.1, check=3600), watched=False) as process:
            process.hear("ADDED", api.put("iterativepporuns", run_manifest()))
            await until(lambda: 'ippo_runs{phase="Running"} 1.0' in process.metrics.text().decode())
            api.remove("iterativepporuns", "team", "small")
            await until(lambda: 'ippo_runs{phase="Running"} 0.0' in process.metrics.text().decode())
            assert process.workers.index.versions() == {}

    run(scene())


def test_probes_tell_what_is_wrong() -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api)
        async with TestClient(TestServer(application(process.health, process.metrics))) as http:
            early = await http.get("/readyz")
            assert early.status == 503
            assert "not answered yet" in (await early.json())["problem"]
            async with process:
                await until(lambda: process.lease.held)
                ready = await http.get("/readyz")
                assert ready.status == 200
                assert (await ready.json())["leader"] is True
                process.watch_problem = "APIForbiddenError: jobs.batch is forbidden"
                refused = await http.get("/readyz")
                assert refused.status == 503
                assert "jobs.batch is forbidden" in (await refused.json())["problem"]
                assert (await http.get("/livez")).status == 200  # a restart would not help
                process.watch_problem = None
                api.before = lambda _n, _r: answer(503, "ServiceUnavailable")
                await until(lambda: process.health.unready() is not None)
                assert (await http.get("/livez")).status == 200
                assert "has not answered for" in json.loads(await (await http.get("/readyz")).text())["problem"]
            metrics = await (await http.get("/metrics")).text()
            assert "ippo_reconcile_seconds_count" in metrics

    run(scene())


def test_a_pass_that_hangs_fails_the_liveness_probe() -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api)
        stuck = asyncio.Event()

        async def hang(*_: object) -> Any:
            await stuck.wait()

        process.workers._reconciler.reconcile = hang  # type: ignore[method-assign]
        async with process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: process.health.unhealthy() is not None)
            assert "a pass has been going on" in str(process.health.unhealthy())
            stuck.set()

    run(scene())


def test_a_loop_that_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api)

        async def broken() -> bool:
            raise RuntimeError("bug")

        monkeypatch.setattr(process.lease, "tick", broken)
        async with process:
            with pytest.raises(RuntimeError, match="bug"):
                await process.workers.failed
            assert process.health.unhealthy() == "a loop of the operator ended"

    run(scene())


def test_stopping_lets_a_pass_end_and_releases_the_lease() -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api)
        entered, leave = asyncio.Event(), asyncio.Event()
        real = process.workers._reconciler.reconcile

        async def slow(namespace: str, name: str) -> Any:
            entered.set()
            await leave.wait()
            return await real(namespace, name)

        process.workers._reconciler.reconcile = slow  # type: ignore[method-assign]
        process.workers.start()
        api.put("iterativepporuns", run_manifest())
        await entered.wait()
        stopping = asyncio.create_task(process.workers.stop())
        await asyncio.sleep(0)
        leave.set()
        await stopping
        assert len(attempts(api)) == 1
        assert api.objects["leases", "ippo", "lock"]["spec"]["holderIdentity"] == ""

    run(scene())
