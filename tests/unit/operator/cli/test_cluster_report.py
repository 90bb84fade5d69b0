"""`ippo report` of a run in a cluster: from a bucket, with the user's or the run's credentials."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ippo_trainer.contract.layout import LEDGER
from moto.server import ThreadedMotoServer

from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo
from tests.kit.toy_cluster import the_run

from .cluster_runs import finish

RUN = "prefix/small/{uid}"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in (("AWS_ACCESS_KEY_ID", "mine"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket="artifacts")
    return moto


def published(server: Server, store: str, **s3: Any) -> None:
    """A run that succeeded, and a damaged ledger in the bucket, of which the report tells."""
    finish(server, artifacts={"s3": {"bucket": "artifacts", "prefix": "prefix", "endpointUrl": store} | s3})
    key = RUN.format(uid=the_run(server.api)["metadata"]["uid"])
    boto3.client("s3", endpoint_url=store, region_name="us-east-1").put_object(
        Bucket="artifacts", Key=f"{key}/{LEDGER}", Body=b"{"
    )


def test_with_the_users_own_credentials(server: Server, ippo: Ippo, store: str, tmp_path: Path) -> None:
    published(server, store)
    said = ippo("report", "small")
    assert (said.code, said.out) == (0, "small-report.html\n"), said.err
    assert f"Line 1 of {LEDGER} is damaged" in (tmp_path / "small-report.html").read_text()


def test_through_another_endpoint(server: Server, ippo: Ippo, store: str, tmp_path: Path) -> None:
    published(server, store)
    the_run(server.api)["spec"]["artifacts"]["s3"]["endpointUrl"] = "http://only.for.pods:1"
    said = ippo("report", "small", "--endpoint-url", store, "--out", "r.html")
    assert (said.code, said.out) == (0, "r.html\n"), said.err


def test_with_the_runs_credentials(
    server: Server, ippo: Ippo, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(server, store, credentialsSecretName="keys")
    said = ippo("report", "small", "--credentials-from-secret")
    assert (said.code, said.err) == (64, "there is no Secret keys in namespace team\n")
    server.api.put("secrets", {"metadata": {"name": "keys", "namespace": "team"}, "data": {"other": ""}})
    assert "has no key credentials" in ippo("report", "small", "--credentials-from-secret").err
    content = b"[default]\naws_access_key_id = runs\naws_secret_access_key = secret\n"
    data = {"credentials": base64.b64encode(content).decode()}
    server.api.edit("secrets", "team", "keys", data=data)
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "not-there")
    (tmp_path / "config").write_text("[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = gone\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    before = dict(os.environ)
    said = ippo("report", "small", "--credentials-from-secret")
    assert said.code == 0, said.err
    assert dict(os.environ) == before


def test_without_a_secret(server: Server, ippo: Ippo, store: str) -> None:
    published(server, store)
    said = ippo("report", "small", "--credentials-from-secret")
    assert said.code == 64
    assert "use your own AWS credentials" in said.err


def test_options_for_clusters_are_refused_for_folders(ippo: Ippo) -> None:
    said = ippo("report", "./folder", "--credentials-from-secret")
    assert (said.code, "are for runs in a cluster" in said.err) == (64, True)
