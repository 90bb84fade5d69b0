"""A store that fails, one that refuses, one that is not there, and one that was tampered with."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import artifacts
from .faulty_store import FaultyStore
from .guarded_store import BUCKET, GuardedStore
from .kube import condition, until
from .place import FOREIGN_IMAGE, GATEWAY
from .runs import Runs, secret

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def faulty(runs: Runs) -> Iterator[FaultyStore]:
    place = runs.kube.place
    if place.lab is None:
        pytest.skip("a proxy that pods reach needs a lab")
    with FaultyStore(place.store.local, GATEWAY) as store:
        yield store


def test_down_for_a_minute_then_slow_then_every_fifth_request_fails(
    runs: Runs, faulty: FaultyStore, undisturbed: artifacts.Files
) -> None:
    runs.create("patient", s3={"endpointUrl": faulty.endpoint})
    runs.wait_stage("patient", "collect")
    faulty.down = True
    threading.Event().wait(60)
    faulty.down = False
    assert faulty.failed
    faulty.every, faulty.delay = 5, 0.05
    run = runs.wait("patient", "Succeeded")
    published = runs.published("patient")
    assert artifacts.digests(published) == artifacts.digests(undisturbed)
    assert artifacts.ledger(published) == artifacts.ledger(undisturbed)
    failed = run["status"].get("lastFailure")
    assert failed is None or failed["kind"] == "TryAgain"


def test_keys_that_are_rotated(runs: Runs, undisturbed: artifacts.Files) -> None:
    """The Secret is behind for a while; the run says so without telling the keys, and goes on by itself."""
    store = runs.kube.place.store
    old = store.credentials.replace(store.secret_key, "no-longer-valid")
    runs.kube.apply(secret(runs.namespace, "rotated", old))
    runs.create("rotated", s3={"credentialsSecretName": "rotated"})
    until(lambda: runs.get("rotated")["status"].get("lastFailure"), "the old keys are refused")
    run = runs.get("rotated")
    failure = run["status"]["lastFailure"]
    assert (failure["kind"], failure["exitCode"]) == ("TryAgain", 75)
    assert "credentials" in failure["message"]
    assert "no-longer-valid" not in str(run["status"])
    runs.kube.apply(secret(runs.namespace, "rotated", store.credentials))
    runs.wait("rotated", "Succeeded")
    assert artifacts.digests(runs.published("rotated")) == artifacts.digests(undisturbed)


def test_a_bucket_that_is_missing(runs: Runs) -> None:
    runs.create("lost", s3={"bucket": "no-such-bucket-anywhere"})
    said = condition(runs.wait("lost", "Stalled"), "Stalled")
    assert said[1] == "InvalidSpec"
    assert "no-such-bucket-anywhere" in said[2]


def test_keys_that_may_only_read(runs: Runs, tmp_path: Path) -> None:
    """Said before the first stage does anything."""
    place = runs.kube.place
    if place.programs is None:
        pytest.skip("needs a lab, which has a store with users")
    with GuardedStore(place.programs, tmp_path, GATEWAY) as store:
        runs.kube.apply(secret(runs.namespace, "reader", store.reader.credentials))
        where = {"bucket": BUCKET, "endpointUrl": store.reader.endpoint, "credentialsSecretName": "reader"}
        runs.create("reads-only", s3=where)
        run = runs.wait("reads-only", "Stalled")
        said = condition(run, "Stalled")
        assert said[1] == "InvalidSpec"
        assert "403 AccessDenied" in said[2]
        assert "credentialsSecretName" in said[2]
        assert "s3:PutObject" in said[2]
        assert store.reader.secret_key not in str(run)
        assert run["status"]["attempt"] == 1
        logs = runs.kube.kubectl("logs", "-n", runs.namespace, "-l", "ippo.dev/run=reads-only", "--tail", "-1")
        assert "started" not in logs, "no work is done that cannot be kept"


def test_an_endpoint_where_nobody_is(runs: Runs) -> None:
    """It may be a store that is down, so it is tried again; not for ever."""
    nowhere = f"http://no-such-store.{runs.namespace}:9000"
    runs.create("nowhere", s3={"endpointUrl": nowhere}, retries={"tryAgain": 1, "backoffSeconds": 1})
    run = runs.wait("nowhere", "Stalled")
    said = condition(run, "Stalled")
    assert said[1] == "BudgetExhausted"
    assert "S3 did not answer" in said[2]
    assert "endpointUrl" in said[2]
    assert run["status"]["lastFailure"]["kind"] == "TryAgain"


def test_an_endpoint_that_is_no_store(runs: Runs) -> None:
    """Another server, for whose certificate nobody whom a stage trusts vouches."""
    runs.create("no-store", s3={"endpointUrl": "https://kubernetes.default.svc"}, retries={"tryAgain": 0})
    said = condition(runs.wait("no-store", "Stalled"), "Stalled")
    assert "endpointUrl" in said[2]


def test_an_artifact_that_was_altered_is_never_used(runs: Runs, bucket: str) -> None:
    """The policy is altered while the candidate is made: neither the next stage nor a server takes it."""
    runs.create("altered", queue={"localQueueName": "by-hand"})
    [job] = until(lambda: _suspended(runs, "warm-start"), "the warm start waits")
    _admit(runs, job)
    [job] = until(lambda: _suspended(runs, "collect"), "collect waits", 900)
    s3 = artifacts.client(runs.kube.place.store)
    uid = runs.get("altered")["metadata"]["uid"]
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"altered/{uid}/iterations/0000/policy/")["Contents"]
    [weights] = [entry["Key"] for entry in listed if entry["Key"].endswith(".safetensors")]
    body = bytearray(s3.get_object(Bucket=bucket, Key=weights)["Body"].read())
    body[-1] ^= 1
    s3.put_object(Bucket=bucket, Key=weights, Body=bytes(body))
    runs.patch("altered", serve={"engine": "Transformers", "progressDeadlineSeconds": 60})
    _admit(runs, job)
    run = runs.wait("altered", "Stalled")
    stalled = condition(run, "Stalled")
    assert stalled[1] == "InvalidData"
    assert "damaged" in stalled[2]
    assert ".safetensors" in stalled[2]
    deployment = runs.kube.get("deployment", runs.namespace, "altered")
    assert not deployment["status"].get("readyReplicas")


def _suspended(runs: Runs, stage: str) -> list[str]:
    jobs = runs.kube.list("jobs", runs.namespace, f"ippo.dev/run=altered,ippo.dev/stage={stage}")
    return [job["metadata"]["name"] for job in jobs if job["spec"].get("suspend")]


def _admit(runs: Runs, job: str) -> None:
    patch = '{"spec": {"suspend": false}}'
    runs.kube.kubectl("patch", "job", job, "-n", runs.namespace, "--type", "merge", "-p", patch)


def test_an_image_without_our_entry_point(runs: Runs) -> None:
    if runs.kube.place.lab is None:
        pytest.skip("needs a foreign image, such as the one of a lab's sandboxes")
    runs.create("other-image", pods={"common": {"image": FOREIGN_IMAGE}}, retries={"crashes": 0})
    said = condition(runs.wait("other-image", "Stalled"), "Stalled")
    assert said[1] == "BudgetExhausted"
    assert '"ippo-stage": executable file not found' in said[2], said


def test_a_secret_that_is_missing_and_comes(runs: Runs, undisturbed: artifacts.Files) -> None:
    runs.create("keyless", s3={"credentialsSecretName": "later"})
    until(lambda: condition(runs.get("keyless"), "Reconciling")[1] == "PodNotStarted", "the run says what is missing")
    assert "later" in condition(runs.get("keyless"), "Reconciling")[2]
    runs.kube.apply(secret(runs.namespace, "later", runs.kube.place.store.credentials))
    runs.wait("keyless", "Succeeded")
    assert artifacts.digests(runs.published("keyless")) == artifacts.digests(undisturbed)
