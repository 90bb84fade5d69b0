"""The bucket of a run in a cluster, as it is reached from here."""

import base64
import binascii
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.contract.variables import CREDENTIALS_FILE, WEB_IDENTITY_FILE

from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.run_view import RunView
from ippo_operator.cluster.errors import NotFoundError
from ippo_operator.cluster.remote.runs import Object, Runs
from ippo_operator.manifests.pods import CREDENTIALS_KEY
from ippo_operator.plan import folders
from ippo_operator.plan.stage_specs import s3_location

_OTHER_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    WEB_IDENTITY_FILE,
)


@contextmanager
def bucket(arguments: Namespace, runs: Runs, run: RunView) -> Iterator[StoreLocation]:
    """Where the run's artifacts are. While it lasts, boto3 uses the credentials that the command line asks for.

    Raises:
        CommandError: the run has no bucket, or no Secret.
    """
    location = _location(run, arguments.endpoint_url)
    with _credentials(_secret(runs, run.raw)) if arguments.credentials_from_secret else nullcontext():
        yield location


def _location(view: RunView, endpoint: str | None) -> StoreLocation:
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
