"""What S3 can say or do, through a proxy that says and does it."""

import time
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import NoCredentialsError
from ippo_trainer.contract.errors import BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.spec import S3Location
from ippo_trainer.store import s3
from ippo_trainer.store.artifact import fetch, publish
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError
from ippo_trainer.store.s3 import RequestLimits, S3Store
from ippo_trainer.store.s3_errors import explain

from .conftest import ACCESS, BUCKET, QUICK, SECRET, Fault, FaultProxy, s3_store

BODY = bytes(range(256)) * 100


def _calls(store: S3Store, tmp_path: Path) -> list:
    (tmp_path / "source").write_bytes(BODY)
    return [
        lambda: store.put("k", b"x"),
        lambda: store.put("k", tmp_path / "source"),
        lambda: store.put("k", b"x", if_absent=True),
        lambda: store.read("k"),
        lambda: store.download("k", tmp_path / "target"),
        lambda: store.info("k"),
        lambda: list(store.list("")),
        lambda: store.delete("k"),
    ]


@pytest.mark.parametrize(
    ("status", "code", "expected", "remedy"),
    [
        (301, "PermanentRedirect", BadSpecError, "region"),
        (400, "AuthorizationHeaderMalformed", BadSpecError, "region"),
        (400, "InvalidRequest", BadSpecError, "what the S3 service says"),
        (401, "Unauthorized", BadSpecError, "credentials"),
        (403, "AccessDenied", BadSpecError, "s3:"),
        (403, "InvalidAccessKeyId", TryAgainError, "credentials"),
        (403, "SignatureDoesNotMatch", TryAgainError, "credentials"),
        (403, "RequestTimeTooSkewed", TryAgainError, "clock"),
        (400, "ExpiredToken", TryAgainError, "credentials"),
        (400, "Throttling", TryAgainError, "busy"),
        (400, "RequestTimeout", TryAgainError, "busy"),
        (400, "IncompleteBody", TryAgainError, "busy"),
        (400, "IDPCommunicationError", TryAgainError, "busy"),
        (403, "RequestThrottled", TryAgainError, "busy"),
        (404, "NoSuchBucket", BadSpecError, "Create the bucket"),
        (409, "OperationAborted", TryAgainError, "Another writer"),
        (429, "TooManyRequests", TryAgainError, "busy"),
        (500, "InternalError", TryAgainError, "busy or broken"),
        (501, "NotImplemented", BadSpecError, "If-None-Match"),
        (503, "SlowDown", TryAgainError, "busy"),
        (507, "InsufficientStorage", TryAgainError, "full"),
    ],
)
def test_every_answer_is_an_error_with_a_remedy(
    faulty: S3Store,
    proxy: FaultProxy,
    pauses: list[float],
    tmp_path: Path,
    status: int,
    code: str,
    expected: type[StageError],
    remedy: str,
) -> None:
    proxy.faults = [Fault(status=status, code=code, headers={"x-amz-bucket-region": "us-west-2"})]
    for call in _calls(faulty, tmp_path):
        caught: StageError | None = None
        proxy.seen.clear()
        try:
            call()
        except StageError as error:
            caught = error
        head = proxy.seen[0][0] == "HEAD"  # its answers have no body, so no code
        assert head or type(caught) is expected
        assert head or remedy in caught.remedy
        if head and status == 404:
            assert caught is None
            continue
        assert caught is not None
        assert f"s3://{BUCKET}/" in str(caught)
        assert "\n" not in str(caught)
        assert SECRET not in str(caught)
        assert ACCESS not in str(caught)
        assert len(proxy.seen) <= QUICK.attempts or status == 301


@pytest.mark.parametrize("code", ["", "404", "NotFound"])
def test_an_address_where_no_store_is_takes_no_objects(faulty: S3Store, proxy: FaultProxy, code: str) -> None:
    """Other web servers answer 404 to everything; a missing result is no news, a refused one is."""
    proxy.faults = [Fault(status=404, code=code)]
    for call in (lambda: faulty.put("k", b"x"), lambda: list(faulty.list(""))):
        with pytest.raises(BadSpecError, match="404") as caught:
            call()
        assert "endpointUrl" in caught.value.remedy


def test_an_upload_that_somebody_ended_is_tried_again(faulty: S3Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(status=404, code="NoSuchUpload")]
    with pytest.raises(TryAgainError, match="NoSuchUpload"):
        faulty.put("k", b"x")


def test_not_found_and_precondition_failed(faulty: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.faults = [Fault(status=404, code="NoSuchKey")]
    with pytest.raises(ObjectNotFoundError):
        faulty.read("k")
    with pytest.raises(ObjectNotFoundError):
        faulty.download("k", tmp_path / "target")
    assert faulty.info("k") is None
    faulty.delete("k")
    proxy.faults = [Fault(status=412, code="PreconditionFailed")]
    with pytest.raises(ObjectExistsError):
        faulty.put("k", b"x", if_absent=True)
    with pytest.raises(TryAgainError):
        faulty.read("k")


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(
    faulty: S3Store, proxy: FaultProxy, pauses: list[float], tmp_path: Path, status: int
) -> None:
    code = "ConditionalRequestConflict" if status == 409 else ""
    for call in _calls(faulty, tmp_path):
        proxy.faults = [Fault(status=status, code=code, times=QUICK.attempts - 1)]
        try:
            call()
        except ObjectExistsError:
            assert faulty.info("k") is not None  # the conditional put, after the plain ones
    assert pauses
    assert max(pauses) <= 20


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_hang_up_and_silence_are_tried_again_and_then_reported(
    faulty: S3Store, proxy: FaultProxy, pauses: list[float], tmp_path: Path, how: str
) -> None:
    faulty.put("k", BODY)
    for call in _calls(faulty, tmp_path)[3:5]:
        proxy.faults = [Fault(how=how, times=1)]
        call()
    assert (tmp_path / "target").read_bytes() == BODY

    proxy.faults = [Fault(how=how)]
    proxy.seen.clear()
    started = time.monotonic()
    with pytest.raises(TryAgainError, match="did not answer or hung up"):
        faulty.read("k")
    assert len(proxy.seen) == QUICK.attempts
    assert time.monotonic() - started < QUICK.attempts * (QUICK.read + 2)


def test_a_body_that_breaks_off_is_read_on(
    faulty: S3Store, proxy: FaultProxy, pauses: list[float], tmp_path: Path
) -> None:
    body = BODY * 300
    faulty.put("k", body)
    proxy.sent = 0
    proxy.faults = [Fault(method="GET", how="cut", times=2)]
    assert faulty.read("k") == body
    assert len(pauses) == 2
    assert proxy.sent < 1.5 * len(body), "it goes on where it was cut"

    proxy.faults = [Fault(method="GET", how="cut", times=2)]
    faulty.download("k", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == body

    proxy.faults = [Fault(method="GET", how="empty")]
    proxy.seen.clear()
    with pytest.raises(TryAgainError, match="hung up"):
        faulty.read("k")
    assert len(proxy.seen) == QUICK.attempts
    with pytest.raises(TryAgainError, match="hung up"):
        faulty.download("k", tmp_path / "other")


def test_an_object_replaced_while_it_is_read_is_not_mixed(
    faulty: S3Store, proxy: FaultProxy, pauses: list[float]
) -> None:
    faulty.put("k", BODY * 300)
    pieces = faulty._pieces(faulty._name("k"))
    proxy.faults = [Fault(method="GET", how="cut", times=1)]
    with faulty._request("k", "read"):
        next(pieces)
    faulty.put("k", BODY * 299)
    with pytest.raises(TryAgainError, match=r"412|broke off"), faulty._request("k", "read"):
        list(pieces)


def test_a_lost_answer_to_a_conditional_put_is_not_lost_work(
    faulty: S3Store, proxy: FaultProxy, pauses: list[float], tmp_path: Path
) -> None:
    """The object was written, the retry says 412: publish recognises its own manifest."""
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "a").write_bytes(b"a")
    proxy.faults = [Fault(method="PUT", suffix="manifest.json", how="lose", times=1)]
    ref = publish(faulty, "q", tmp_path / "artifact", "q")
    assert len(fetch(faulty, ref, tmp_path / "out", "q").files) == 1


def test_bytes_altered_on_the_way_are_noticed(faulty: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "a").write_bytes(BODY)
    ref = publish(faulty, "q", tmp_path / "artifact", "q")
    proxy.faults = [Fault(method="GET", suffix="/a", how="alter")]
    with pytest.raises(StageError, match="a was altered"):
        fetch(faulty, ref, tmp_path / "out", "q")
    assert not (tmp_path / "out").exists()


def test_an_operation_has_a_deadline(proxy: FaultProxy, pauses: list[float]) -> None:
    store = s3_store(proxy.url, RequestLimits(connect=1, read=0.4, total=0.5, attempts=50))
    proxy.faults = [Fault(how="hang")]
    started = time.monotonic()
    with pytest.raises(TryAgainError, match="DeadlineError"):
        store.read("k")
    assert time.monotonic() - started < 5


def test_a_transfer_that_drips_has_a_deadline(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_TRANSFER", TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20))
    (tmp_path / "source").write_bytes(bytes(6 << 20))
    s3_store(proxy.url).put("k", tmp_path / "source")
    slow = s3_store(proxy.url, RequestLimits(total=0.001, slowest=1e12))
    with pytest.raises(TryAgainError, match="DeadlineError"):
        slow.put("k", tmp_path / "source")
    with pytest.raises(TryAgainError, match="DeadlineError"):
        slow.download("k", tmp_path / "target")


def test_every_upload_carries_its_md5(
    real_s3: str, credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets with a default retention refuse others. The server compares it with what it gets."""
    monkeypatch.setattr(s3, "_TRANSFER", TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    store, sent = s3_store(real_s3), []
    store._client.meta.events.register("before-send.s3", lambda request, **_: sent.append(request))
    for name, body in (("small", BODY), ("large", BODY * 240)):
        (tmp_path / name).write_bytes(body)
        store.put(name, tmp_path / name)
        assert store.read(name) == body
    store.put("bytes", BODY, if_absent=True)
    uploads = [request for request in sent if request.method == "PUT"]
    assert len(uploads) == 4, "one has two parts"
    assert all(request.headers["Content-MD5"] for request in uploads)
    monkeypatch.setattr(s3, "calculate_md5", lambda body: "A" * 22 + "==")
    with pytest.raises(TryAgainError, match="BadDigest"):
        store.put("bytes", BODY)


def test_redirects_that_name_no_region(faulty: S3Store, proxy: FaultProxy) -> None:
    """What a web server says on the port where S3 was expected."""
    proxy.faults = [Fault(status=301, headers={"Location": "https://elsewhere/"})]
    with pytest.raises(BadSpecError, match="circles"):
        faulty.read("k")


def test_nobody_listens(credentials: None, pauses: list[float]) -> None:
    with pytest.raises(TryAgainError, match="did not answer"):
        s3_store("http://127.0.0.1:9", QUICK).put("k", b"")


def test_no_credentials(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadSpecError, match="no complete S3 credentials"):
        s3_store(moto).put("k", b"")


@pytest.mark.parametrize("endpoint", ["no-url", "http://", "ftp://x y"])
def test_a_malformed_endpoint_is_a_wrong_spec(credentials: None, endpoint: str) -> None:
    with pytest.raises(BadSpecError, match=r"endpointUrl is malformed|artifacts\.s3"):
        s3_store(endpoint, QUICK).put("k", b"")


def test_a_malformed_bucket_is_a_wrong_spec(credentials: None, moto: str) -> None:
    with pytest.raises(BadSpecError, match="malformed"):
        S3Store(S3Location(bucket="no/bucket", endpoint_url=moto)).put("k", b"")


def test_a_missing_bucket_is_a_wrong_spec(credentials: None, moto: str) -> None:
    with pytest.raises(BadSpecError, match="NoSuchBucket"):
        s3_store(moto, bucket="there-is-none").put("k", b"")


def test_a_credentials_file_that_this_user_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 passes over it in silence. Root may read everything, so the answer of the system is made up here."""
    path = tmp_path / "credentials"
    path.write_text("")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    assert "no complete S3 credentials" in explain(NoCredentialsError(), "s3://b/k").message
    monkeypatch.setattr("os.access", lambda *_: False)
    error = explain(NoCredentialsError(), "s3://b/k")
    assert f"may not read {path}" in error.message
    assert "stageUser" in error.remedy
