"""`ippo report` in a cluster: reads the run's small files from its bucket, with the user's own credentials."""

import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ippo_trainer.contract.spec import StoreLocation

from ippo_operator.cli.bucket import bucket
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.errors import OK, TRY_AGAIN, CommandError
from ippo_operator.cli.report.errors import report_errors
from ippo_operator.cli.report.standing import standing
from ippo_operator.cli.run_view import RunView
from ippo_operator.cli.status.iterations import plain

if TYPE_CHECKING:
    from ippo_trainer.store.base import Store
    from ippo_trainer.training.progress import ProgressBar

_ELSEWHERE = "if it has another address from here, give that with --endpoint-url (kubectl port-forward makes one)."


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    output = Path(arguments.out) if arguments.out else Path(f"{arguments.run}-report.html")
    with cluster(arguments) as runs:
        run = find(runs, arguments.run)
        with bucket(arguments, runs, run) as location:
            return _write(run, location, output)


def _write(run: RunView, location: StoreLocation, output: Path) -> int:
    try:
        with report_errors(output):
            from ippo_trainer.report import write_report
            from ippo_trainer.store import open_store
            from ippo_trainer.training.progress import ProgressBar

            total = run.status.completed_iterations + 1
            bar = ProgressBar(total, "reading the run's results", "iterations")
            with bar:
                metadata = {"name": run.name, "namespace": run.namespace}
                counted = Counted(open_store(location), bar, total)
                manifest = {"metadata": metadata, "spec": run.spec, "status": plain(run.status)}
                write_report(cast("Store", counted), output, manifest, standing(run))
    except CommandError as error:
        unreachable = error.code == TRY_AGAIN and location.s3 is not None and location.s3.endpoint_url
        hint = f" {location.s3.endpoint_url} is where pods find it; {_ELSEWHERE}" if unreachable and location.s3 else ""
        raise CommandError(f"{error}{hint}", error.code) from None
    if not counted.iterations and run.status.completed_iterations:
        place = counted.describe("iterations")
        print(f"note: {place} has none of the run's results; is it the bucket that the pods use?", file=sys.stderr)
    print(output)
    return OK


class Counted:
    """A store that tells a bar which iterations were read.

    Args:
        store: whose objects are read.
        bar: of iterations.
        total: iterations, with the warm start.
    """

    def __init__(self, store: "Store", bar: "ProgressBar", total: int) -> None:
        self._store, self._bar, self._total = store, bar, total
        self._lock = threading.Lock()
        self.iterations: set[int] = set()
        """Iterations of which something was read."""

    def read(self, key: str, *limit: int) -> bytes:
        """See Store."""
        data = self._store.read(key, *limit)
        parts = key.split("/")
        if parts[0] == "iterations" and len(parts) > 1 and parts[1].isdecimal():
            self._note(int(parts[1]))
        return data

    def _note(self, iteration: int) -> None:
        with self._lock:
            if iteration not in self.iterations and iteration < self._total:
                self.iterations.add(iteration)
                self._bar.update()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
