"""The store in an S3 bucket, with boto3.

botocore's standard mode retries what may pass (connection errors, 429, 500, 502, 503, 504) with exponential back-off.
Here come on top: a deadline for each operation, retries of a body that breaks off, conditional puts, and errors that
name the object and the remedy.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
import urllib3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.compat import MD5_AVAILABLE
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.utils import calculate_md5

from ippo_trainer.contract.digests import PIECE
from ippo_trainer.contract.errors import BadDataError, StageError, TryAgainError
from ippo_trainer.contract.layout import check_key, is_key
from ippo_trainer.contract.spec import S3Location
from ippo_trainer.store.base import READ_LIMIT, ObjectInfo, ObjectNotFoundError
from ippo_trainer.store.disk import disk_error, disk_errors
from ippo_trainer.store.s3_errors import DeadlineError, explain

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, urllib3.exceptions.HTTPError)
_TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=16 << 20, max_concurrency=4)


@dataclass(frozen=True)
class RequestLimits:
    """How long the store waits, in seconds, and how often it tries a request."""

    connect: float = 10
    read: float = 60
    total: float = 300
    attempts: int = 8
    slowest: float = 1 << 20
    """Bytes per second: a transfer's deadline is `total` plus its size over this."""


class S3Store:
    """Objects below `prefix/` of a bucket. Credentials are boto3's business: environment, files, or the pod's role."""

    def __init__(self, location: S3Location, limits: RequestLimits = RequestLimits()) -> None:
        self.bucket = location.bucket
        self.prefix = location.prefix.strip("/")
        self.limits = limits
        self._encryption = _encryption(location)
        self._until = threading.local()
        try:
            self._client = _client(location, limits)
        except (BotoCoreError, ValueError) as error:
            raise explain(error, f"s3://{self.bucket}") from error
        for operation in ("PutObject", "UploadPart"):
            self._client.meta.events.register(f"before-parameter-build.s3.{operation}", _add_md5)
        self._client.meta.events.register("before-send.s3", self._check_deadline)
        # botocore sleeps for what the handler returns; the stubs know only handlers without a result.
        self._client.meta.events.register("needs-retry.s3", cast(Callable[..., None], self._retry_conflict))

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        name = self._name(key)
        with self._request(key, "write"):
            if isinstance(source, bytes):
                self._put_object(name, source, if_absent)
                return
            size = source.stat().st_size
            if if_absent or size <= _TRANSFER.multipart_threshold:
                with source.open("rb") as file:
                    self._put_object(name, file, if_absent)
            else:
                meter = self._meter(size)
                self._client.upload_file(
                    str(source), self.bucket, name, self._encryption, Config=_TRANSFER, Callback=meter
                )

    def read(self, key: str, limit: int = READ_LIMIT) -> bytes:
        data = bytearray()
        with self._request(key, "read"):
            for piece in self._pieces(self._name(key)):
                data += piece
                if len(data) > limit:
                    raise BadDataError(
                        f"{self.describe(key)} has more than {limit} bytes", "It is not what it should be."
                    )
        return bytes(data)

    def download(self, key: str, path: Path) -> None:
        name = self._name(key)
        with self._request(key, "read"), disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in self._pieces(name):
                    file.write(piece)

    def info(self, key: str) -> ObjectInfo | None:
        name = self._name(key)
        try:
            with self._request(key, "read"):
                return ObjectInfo(key, self._client.head_object(Bucket=self.bucket, Key=name)["ContentLength"])
        except ObjectNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = f"{self._name(prefix)}/" if prefix else (f"{self.prefix}/" if self.prefix else "")
        cut = len(self.prefix) + 1 if self.prefix else 0
        token: dict[str, Any] = {}
        while True:
            with self._request(prefix, "list"):
                page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=start, **token)
            for item in page.get("Contents", []):
                key = item["Key"][cut:]
                if is_key(key):
                    yield ObjectInfo(key, item["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            with self._request(key, "delete"):
                self._client.delete_object(Bucket=self.bucket, Key=name)
        except ObjectNotFoundError:
            return

    def describe(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}/{key}" if self.prefix else f"s3://{self.bucket}/{key}"

    def _name(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put_object(self, name: str, body: Any, if_absent: bool) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        self._client.put_object(Bucket=self.bucket, Key=name, Body=body, **condition, **self._encryption)

    @contextmanager
    def _request(self, key: str, verb: str) -> Iterator[None]:
        """One operation: sets its deadline and turns every expected failure into a StageError."""
        where = self.describe(key)
        self._until.time = time.monotonic() + self.limits.total
        try:
            yield
        except StageError:
            raise
        except S3UploadFailedError as error:
            raise explain(error.__cause__ or error.__context__ or error, where, verb) from error
        except (BotoCoreError, ClientError, DeadlineError, RecursionError, urllib3.exceptions.HTTPError) as error:
            raise explain(error, where, verb) from error
        except OSError as error:
            raise disk_error(error, error.filename or where) from error
        finally:
            self._until.time = None

    def _pieces(self, name: str) -> Iterator[bytes]:
        """An object's bytes, in pieces of 1 MiB at most.

        Where the connection breaks, it goes on from there, of the same version of the object (ETag).
        """
        done, broken = 0, 0
        rest: dict[str, Any] = {}
        while True:
            response = self._client.get_object(Bucket=self.bucket, Key=name, **rest)
            if rest and (response["ETag"] != rest["IfMatch"] or "ContentRange" not in response):
                # Some servers ignore these headers.
                raise TryAgainError(
                    f"s3://{self.bucket}/{name} cannot be read on where it broke off", "Start it again."
                )
            body = response["Body"]
            try:
                for piece in body.iter_chunks(PIECE):
                    yield piece
                    done += len(piece)
                    broken = 0
                    self._until.time += len(piece) / self.limits.slowest
                    self._check_deadline()
                return
            except _BROKEN_BODY:
                broken += 1
                if broken >= self.limits.attempts:
                    raise
                time.sleep(_pause(broken))
                rest = {"Range": f"bytes={done}-", "IfMatch": response["ETag"]}
            finally:
                body.close()

    def _check_deadline(self, **_: Any) -> None:
        until = getattr(self._until, "time", None)
        if until is not None and time.monotonic() > until:
            raise DeadlineError

    def _meter(self, size: int) -> Callable[[int], None]:
        """A progress callback that ends a transfer which is slower than `limits.slowest`, from whatever thread."""
        start = time.monotonic()
        allowed = self.limits.total + size / self.limits.slowest

        def count(_: int) -> None:
            if time.monotonic() - start > allowed:
                raise DeadlineError

        return count

    def _retry_conflict(self, response: Any = None, attempts: int = 1, **_: Any) -> float | None:
        """Two conditional puts at once may get 409 ConditionalRequestConflict: ask again, then one gets 412."""
        status = response[0].status_code if response else 0
        if status not in (409, 429) or attempts >= self.limits.attempts:
            return None
        return _pause(attempts)


def _encryption(location: S3Location) -> dict[str, Any]:
    """What a write says of encryption; of several parts, only the first request of the upload says it."""
    if location.encryption is None:
        return {}
    if location.encryption == "SSE-S3":
        return {"ServerSideEncryption": "AES256"}
    key = {"SSEKMSKeyId": location.kms_key_id} if location.kms_key_id else {}
    return {"ServerSideEncryption": "aws:kms", **key}


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Adds Content-MD5 to an upload: buckets with a default retention (Object Lock) refuse one without a checksum.

    Unlike the newer checksums, every S3 service knows it. Pythons that keep to FIPS do not.
    """
    if MD5_AVAILABLE:
        params["ContentMD5"] = calculate_md5(params["Body"])


def _pause(attempt: int) -> float:
    """Seconds to wait after the attempt of that number: exponential back-off with jitter, at most 6 s."""
    return random.uniform(0.05, 0.1) * 2.0 ** min(attempt, 6)  # noqa: S311


def _client(location: S3Location, limits: RequestLimits) -> "S3Client":
    """A client of its own session (clients are safe to share between threads, the default session is not)."""
    session = boto3.session.Session()
    endpoint = location.endpoint_url
    own_server = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=limits.connect,
        read_timeout=limits.read,
        retries={"mode": "standard", "total_max_attempts": limits.attempts},
        max_pool_connections=32,
        # Servers other than Amazon's often have no wildcard DNS, and do not know the newer trailing checksums.
        # Nothing is lost: uploads carry MD5, and readers verify SHA-256.
        s3={"addressing_style": "path" if own_server else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = location.region or session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
