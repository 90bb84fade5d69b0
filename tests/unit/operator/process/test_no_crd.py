"""An API server that does not know the CRD: the probes say so, and no restart is asked for."""

import asyncio

from ippo_operator.process.workers import WorkPace

from tests.kit.fake_api import FakeApi, answer
from tests.kit.toy_cluster import attempts, run_manifest

from .test_workers import Process, run, until


def test_without_the_crd_it_is_not_ready_and_a_restart_would_not_help() -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api, pace=WorkPace(workers=1, resync=0.1, check=0.05))
        unknown = answer(404, "NotFound", "the server could not find the requested resource")
        api.before = lambda _n, request: unknown if "iterativepporuns" in request.path else None
        async with process:
            await until(lambda: process.health.unready() not in {None, "the API server has not answered yet"})
            assert "is the CRD installed" in str(process.health.unready())
            await asyncio.sleep(0.5)  # longer than a watch may be missing
            assert process.health.unhealthy() is None
            api.before = lambda _n, _request: None
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))
            await until(lambda: process.health.unready() is None)

    run(scene())
