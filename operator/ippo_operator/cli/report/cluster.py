"""`ippo report` in a cluster: reads the run's small files from its bucket, with the user's own credentials."""

import base64
import binascii
import os
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.contract.variables import CREDENTIALS_FILE, WEB_IDENTITY_FILE

from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.errors import OK, TRY_AGAIN, CommandError
from ippo_operator.cli.report.errors import report_errors
from ippo_operator.cli.report.standing import standing
from ippo_operator.cli.run_view import RunView
from ippo_operator.cli.status.iterations import plain
from ippo_operator.cluster.errors import NotFoundError
from ippo_operator.cluster.remote.runs import Object, Runs
from ippo_operator.manifests.pods import CREDENTIALS_KEY
from ippo_operator.plan import folders
from ippo_operator.plan.stage_specs import s3_location

if TYPE_CHECKING:
    from ippo_trainer.store.base import Store
    from ippo_trainer.training.progress import ProgressBar

_ELSEWHERE = "if it has another address from here, give that with --endpoint-url (kubectl port-forward makes one)."
_OTHER_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    WEB_IDENTITY_FILE,
)


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    output = Path(arguments.out) if arguments.out else Path(f"{arguments.run}-report.html")
    with cluster(arguments) as runs:
        run = find(runs, arguments.run)
        location = run_location(run, arguments.endpoint_url)
        if not arguments.credentials_from_secret:
            return _write(run, location, output)
        with secret_credentials(runs, run):
            return _write(run, location, output)


def run_location(view: RunView, endpoint: str | None) -> StoreLocation:
    """Where the run's artifacts are, as seen from here. Raises CommandError if it has none."""
    raw = view.raw
    try:
        run = parse_run(raw | {"metadata": {key: raw["metadata"][key] for key in ("name", "namespace", "uid")}})
    except ManifestError as error:
        raise CommandError(f"the run's spec cannot be used: {'; '.join(map(str, error.problems))}") from None
    artifacts = run.spec.artifacts
    if artifacts is None:
        raise CommandError(f"{run.metadata.name} has no spec.artifacts, so it has published nothing")
    run = run.model_copy(update={"status": view.status})
    problem = folders.problem(run)
    if problem is not None:
        raise CommandError(problem)
    s3 = s3_location(run, artifacts.s3)
    return StoreLocation(s3=s3.model_copy(update={"endpoint_url": endpoint}) if endpoint else s3)


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


def _secret(runs: Runs, raw: Object) -> bytes:
    """The AWS credentials file in the run's Secret."""
    name = raw["spec"]["artifacts"]["s3"].get("credentialsSecretName")
    namespace = raw["metadata"]["namespace"]
    if not name:
        raise CommandError("the run has no spec.artifacts.s3.credentialsSecretName; use your own AWS credentials")
    try:
        data = runs.secret(namespace, name).get("data") or {}
    except NotFoundError:
        raise CommandError(f"there is no Secret {name} in namespace {namespace}") from None
    try:
        return base64.b64decode(data[CREDENTIALS_KEY], validate=True)
    except (KeyError, binascii.Error):
        raise CommandError(f"the Secret {name} has no key {CREDENTIALS_KEY} with an AWS credentials file") from None


def secret_credentials(runs: Runs, run: RunView) -> AbstractContextManager[None]:
    """While it lasts, boto3 uses the keys in the run's Secret."""
    return _credentials(_secret(runs, run.raw))


@contextmanager
def _credentials(content: bytes) -> Iterator[None]:
    """boto3 uses these and no others meanwhile. The file is the user's alone, and gone afterwards."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CREDENTIALS_KEY
        path.touch(mode=0o600)
        path.write_bytes(content)
        for name in _OTHER_CREDENTIALS:
            os.environ.pop(name, None)
        # A profile of the user's configuration that names a role or SSO would win over the file's keys.
        os.environ |= {CREDENTIALS_FILE: str(path), "AWS_CONFIG_FILE": os.devnull}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
