"""What a pass itself wrote wakes nobody; what others write meanwhile does."""

import asyncio
from typing import Any

from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import FakeApi
from tests.kit.toy_cluster import ToyController, attempts, run_manifest, the_run

from .test_workers import Process, drive, run, succeeded, until


def passes(api: FakeApi) -> int:
    """Every pass begins with a fresh read of the run."""
    return sum(call.method == "GET" and call.path.endswith("/iterativepporuns/small") for call in api.calls)


async def at_rest(process: Process) -> None:
    """Nothing is due or worked on, also after the event loop went round."""
    calm = 0
    while calm < 20:
        await asyncio.sleep(0)
        calm = 0 if process.workers.queue.depth or process.workers.queue.working else calm + 1


def test_a_status_that_a_pass_wrote_makes_no_other_pass() -> None:
    async def scene() -> None:
        api = FakeApi()
        async with Process(api) as process:
            await until(lambda: process.lease.held)
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))
            await at_rest(process)
        # One for the run, which makes the Job; one for the Job, which notes that it was seen.
        assert passes(api) == 2
        assert the_run(api)["status"]["active"]["observed"] is True

    run(scene())


def test_an_edit_during_a_pass_makes_another_one() -> None:
    async def scene() -> None:
        api = FakeApi()
        edited = False

        def edit(_: int, request: Request, __: Response) -> None:
            nonlocal edited
            if request.method == "POST" and request.path.endswith("/jobs") and not edited:
                edited = True
                api.edit("iterativepporuns", "team", "small", spec=the_run(api)["spec"] | {"suspend": True})

        api.after = edit
        async with Process(api) as process:
            await until(lambda: process.lease.held)
            api.put("iterativepporuns", run_manifest())
            await until(lambda: edited)
            await until(lambda: the_run(api)["status"].get("observedGeneration") == 2)
            await at_rest(process)
        assert the_run(api)["status"]["active"]["stopping"] is True

    run(scene())


def test_an_own_write_that_a_watch_tells_of_late_makes_no_other_pass() -> None:
    async def scene() -> None:
        api = FakeApi()
        async with Process(api, watched=False) as process:
            await until(lambda: process.lease.held)
            made = api.put("iterativepporuns", run_manifest())
            process.hear("ADDED", made)
            await until(lambda: bool(attempts(api)))
            await at_rest(process)
            assert passes(api) == 1
            process.hear("MODIFIED", the_run(api))
            await at_rest(process)
            assert passes(api) == 1
            # The watches have told of it all the same: nothing is missed.
            listed = {("team", "small"): the_run(api)["metadata"]["resourceVersion"]}
            assert process.workers.index.missed(listed, listed) == []

    run(scene())


def test_the_time_from_an_event_to_the_next_job_is_measured_once_per_job() -> None:
    async def scene() -> None:
        api = FakeApi()
        controller = ToyController(api)
        async with Process(api) as process:
            api.put("iterativepporuns", run_manifest())
            await drive(controller, lambda: succeeded(api))
            text = process.metrics.text().decode()
        assert f"ippo_next_job_seconds_count {float(len(attempts(api)))}" in text
        assert process.workers._heard == {}

    run(scene())


def test_a_pass_that_fails_leaves_its_event_unanswered() -> None:
    async def scene() -> None:
        api = FakeApi()
        process = Process(api)
        real, failed = process.workers._reconciler.reconcile, False

        async def once(namespace: str, name: str) -> Any:
            nonlocal failed
            if not failed:
                failed = True
                raise RuntimeError("bug")
            return await real(namespace, name)

        process.workers._reconciler.reconcile = once  # type: ignore[method-assign]
        async with process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))
            await at_rest(process)
            text = process.metrics.text().decode()
        assert 'ippo_reconcile_errors_total{kind="Bug"} 1.0' in text
        assert "ippo_next_job_seconds_count 1.0" in text

    run(scene())


def test_what_is_known_of_a_deleted_run_is_forgotten() -> None:
    async def scene() -> None:
        api = FakeApi()
        async with Process(api) as process:
            api.put("iterativepporuns", run_manifest())
            await until(lambda: bool(attempts(api)))
            api.remove("iterativepporuns", "team", "small")
            await at_rest(process)
            workers = process.workers
            assert (workers._own, workers._heard, workers._meanwhile) == ({}, {}, {})
            assert 'ippo_runs{phase="Running"} 0.0' in process.metrics.text().decode()

    run(scene())
