"""How long a pass of the planner takes, and how large the status gets, over a run of 1,000 iterations."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kit.planner_world import Cluster, good_result, make_run


def main() -> None:
    """Drives one run with stages that end at once; prints one line."""
    world = Cluster(make_run(iterations={"max": 1000}))
    passes, slowest, spent = 0, 0.0, 0.0
    while world.run.status is None or not world.run.status.is_true("Ready"):
        began = time.perf_counter()
        world.plan()
        took = time.perf_counter() - began
        passes, slowest, spent = passes + 1, max(slowest, took), spent + took
        world.step()
        running = world.running()
        if running is not None:
            world.end(running, good_result(running.spec))
            del world.created[:-1]
            world.jobs = {running.name: world.jobs[running.name]}
    size = len(world.run.status.model_dump_json(by_alias=True, exclude_none=True))
    print(f"{passes} passes, {spent / passes * 1e3:.2f} ms each, slowest {slowest * 1e3:.1f} ms, status {size} bytes")


if __name__ == "__main__":
    main()
