"""Watch events that come twice, late, in another order or never: a run ends right all the same."""

import asyncio
import random

import pytest
from ippo_operator.process.workers import WorkPace

from tests.kit.fake_api import FakeApi, Object
from tests.kit.toy_cluster import ToyController, attempts, run_manifest

from .test_workers import Process, drive, run, succeeded

PACE = WorkPace(workers=3, resync=0.3, check=0.2, drain=5)
NAMES = [f"run-{number}" for number in range(4)]


class Noisy(Process):
    """Hears of changes as a bad line delivers them.

    Args:
        api: whose changes these are.
        lost: the share of events that never come.
        twice: the share that comes twice.
        late: how many events may overtake one another.
    """

    def __init__(self, api: FakeApi, lost: float = 0.0, twice: float = 0.0, late: int = 1) -> None:
        self._chance = random.Random(7)
        self._lost, self._twice, self._late = lost, twice, late
        self._waiting: list[tuple[str, Object]] = []
        super().__init__(api, pace=PACE)

    def hear(self, kind: str, item: Object) -> None:
        if self._chance.random() >= self._lost:
            self._waiting += [(kind, item)] * (1 + (self._chance.random() < self._twice))
        while len(self._waiting) >= self._late:
            super().hear(*self._waiting.pop(self._chance.randrange(len(self._waiting))))


@pytest.mark.parametrize(
    "noise",
    [
        {"twice": 1.0},
        {"late": 9},
        {"lost": 0.5},
        {"lost": 1.0},
        {"lost": 0.3, "twice": 0.5, "late": 7},
    ],
    ids=["duplicate", "reordered", "dropped", "all dropped", "all of it"],
)
def test_a_bad_line_costs_time_and_nothing_else(noise: dict[str, float]) -> None:
    async def scene() -> None:
        api = FakeApi()
        controller = ToyController(api)
        async with Noisy(api, **noise):  # type: ignore[arg-type]
            for name in NAMES:
                api.put("iterativepporuns", run_manifest() | {"metadata": {"name": name, "namespace": "team"}})
            await drive(controller, lambda: all(succeeded(api, name) for name in NAMES))
        assert len(attempts(api)) == len(set(attempts(api))) == 5 * len(NAMES)
        assert sorted(controller.ran) == sorted(attempts(api))

    run(scene())


def test_an_event_of_a_run_that_is_gone_brings_nothing_back() -> None:
    async def scene() -> None:
        api = FakeApi()
        old: list[tuple[str, Object]] = []
        async with Process(api) as process:
            before = api.on_change

            def keep(kind: str, item: Object) -> None:
                old.append((kind, item))
                before(kind, item)

            api.on_change = keep
            api.put("iterativepporuns", run_manifest())
            controller = ToyController(api)
            await drive(controller, lambda: len(attempts(api)) == 2)
            api.remove("iterativepporuns", "team", "small")
            jobs = attempts(api)
            for kind, item in [*old]:
                if kind != "DELETED":
                    process.hear(kind, item)
            await drive(controller, lambda: not process.workers.queue.depth and not process.workers.queue.working)
            await asyncio.sleep(0)
            assert attempts(api) == jobs
            assert process.workers.index.versions() == {}
            assert api.all("jobs") == api.all("configmaps") == api.all("iterativepporuns") == []

    run(scene())
