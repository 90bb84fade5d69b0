"""Work on many objects at once, with bounded memory."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
WORKERS = 8


def for_each(function: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> list[R]:
    """Calls `function` on every item in a few threads and returns the results in the items' order.

    Items are taken as threads become free. The first exception ends it and is raised after running calls are over.
    """
    results: dict[int, R] = {}
    running: dict[Future[R], int] = {}

    def collect(futures: Iterable[Future[R]]) -> None:
        for future in futures:
            results[running.pop(future)] = future.result()

    with ThreadPoolExecutor(workers) as pool:
        for index, item in enumerate(items):
            running[pool.submit(function, item)] = index
            if len(running) >= 2 * workers:
                collect(wait(running, return_when=FIRST_COMPLETED).done)
        collect(wait(running).done)
    return [results[index] for index in range(len(results))]
