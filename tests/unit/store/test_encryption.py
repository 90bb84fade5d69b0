"""Buckets that demand encryption: every way of writing asks for it, and without the setting the remedy is clear."""

from pathlib import Path

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.spec import S3Location
from ippo_trainer.store import artifact, s3
from ippo_trainer.store.checkpoint import StageCheckpoint
from ippo_trainer.store.s3 import S3Store

from .conftest import BUCKET, QUICK, Fault, FaultProxy

HEADER = "x-amz-server-side-encryption"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SETTINGS = [
    ({"encryption": "SSE-S3"}, "AES256", None),
    ({"encryption": "SSE-KMS"}, "aws:kms", None),
    ({"encryption": "SSE-KMS", "kms_key_id": KEY}, "aws:kms", KEY),
]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files go up in parts."""
    monkeypatch.setattr(s3, "_TRANSFER", TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))


def files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "small").write_bytes(b"x")
    with (folder / "large").open("wb") as file:
        file.truncate(11 << 20)
    return folder


def checkpoint_in(store: S3Store) -> StageCheckpoint:
    return StageCheckpoint(store, "checkpoint", "sha256:" + "0" * 64)


def write_everything(store: S3Store, tmp_path: Path) -> None:
    checkpoint = checkpoint_in(store)
    checkpoint.check_writable()
    artifact.publish(store, "policies", files(tmp_path / "policy"), "policy")
    for step in (1, 2):
        checkpoint.save(files(tmp_path / f"step-{step}"), step)
    store.put("result.json", b"{}", if_absent=True)
    store.put("ledger.jsonl", b"{}")


@pytest.mark.parametrize(("settings", "algorithm", "key"), SETTINGS)
@pytest.mark.usefixtures("parts", "credentials")
def test_every_write_asks_for_encryption(
    moto: str, proxy: FaultProxy, tmp_path: Path, settings: dict[str, str], algorithm: str, key: str | None
) -> None:
    location = S3Location(bucket=BUCKET, prefix=f"tests/{tmp_path.name}", endpoint_url=proxy.url, **settings)  # type: ignore[arg-type]
    proxy.faults = [Fault(method=method, how="demand", header=HEADER, status=403) for method in ("PUT", "POST")]
    proxy.exempt = "uploadId="
    store = S3Store(location, QUICK)
    write_everything(store, tmp_path)
    client = boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", config=Config(s3={"addressing_style": "path"})
    )
    kept = [client.head_object(Bucket=BUCKET, Key=f"{location.prefix}/{found.key}") for found in store.list("")]
    assert len(kept) >= 8
    assert {head["ServerSideEncryption"] for head in kept} == {algorithm}
    assert key is None or {head["SSEKMSKeyId"] for head in kept} == {key}
    assert store.read("ledger.jsonl") == b"{}"


def test_without_the_setting_nothing_is_asked_for(faulty: S3Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method="PUT", how="demand", header=HEADER, status=403, code="AccessDenied")]
    with pytest.raises(
        BadSpecError, match=r"403 AccessDenied.*s3:PutObject.*demands encryption.*artifacts.s3.encryption"
    ):
        checkpoint_in(faulty).check_writable()


@pytest.mark.parametrize("code", ["KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"])
def test_a_key_that_cannot_be_used_is_a_wrong_spec(faulty: S3Store, proxy: FaultProxy, code: str) -> None:
    proxy.faults = [Fault(method="PUT", status=400, code=code)]
    with pytest.raises(BadSpecError, match=rf"400 {code}.*artifacts.s3.kmsKeyId.*kms:GenerateDataKey"):
        checkpoint_in(faulty).check_writable()
