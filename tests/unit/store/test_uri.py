"""What a user names by URI: found where it is, or streamed from S3, or an error that names field and remedy."""

from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.models.files import loaded_files
from ippo_trainer.store.s3 import S3Store
from ippo_trainer.store.uri import fetch_directory, fetch_file

from .conftest import BUCKET, s3_store

LOCAL = StoreLocation(directory="unused")


def test_local_files_and_directories_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a log.jsonl").write_text("x")
    assert fetch_file(f"file://{tmp_path}/a%20log.jsonl", tmp_path / "work", LOCAL, "f") == tmp_path / "a log.jsonl"
    assert fetch_directory(f"file://{tmp_path}", tmp_path / "work", LOCAL, "f") == tmp_path
    assert not (tmp_path / "work").exists()
    with pytest.raises(BadDataError, match=r"warmStart.conversations: there is no file .*b.jsonl"):
        fetch_file(f"file://{tmp_path}/b.jsonl", tmp_path, LOCAL, "warmStart.conversations")
    with pytest.raises(BadDataError, match=r"policy.base: there is no directory .*b.jsonl"):
        fetch_directory(f"file://{tmp_path}/b.jsonl", tmp_path, LOCAL, "policy.base")


@pytest.mark.parametrize("uri", ["hf://a/b", "file://", "s3://", "s3://ab/c"])
def test_places_that_cannot_be_read_are_wrong_specs(uri: str, tmp_path: Path) -> None:
    for fetch in (fetch_file, fetch_directory):
        with pytest.raises(BadSpecError, match=r"policy\.base"):
            fetch(uri, tmp_path, LOCAL, "policy.base")


@pytest.mark.parametrize("name", ["_log.jsonl", "größe.jsonl", "2026-01-01T00:00:00+02:00.jsonl", ".."])
def test_an_odd_name_of_an_object_is_named_with_its_field(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadSpecError, match=r"^warmStart\.conversations .*Rename it: letters, digits"):
        fetch_file(f"s3://a-bucket/logs/{name}", tmp_path, LOCAL, "warmStart.conversations")


def test_a_folder_in_s3_may_not_be_too_long(tmp_path: Path) -> None:
    for fetch in (fetch_file, fetch_directory):
        with pytest.raises(BadSpecError, match=r"^policy\.base .*At most 512"):
            fetch(f"s3://a-bucket/{'a' * 600}/model", tmp_path, LOCAL, "policy.base")


@pytest.fixture
def bucket(moto: str, credentials: None) -> tuple[S3Store, StoreLocation]:
    """A store with a prefix of its own, and the location of the run's store at the same endpoint."""
    location = StoreLocation(s3=S3Location(bucket=BUCKET, prefix="elsewhere", endpoint_url=moto, region="us-east-1"))
    return s3_store(moto), location


def test_a_file_in_s3_is_downloaded(bucket: tuple[S3Store, StoreLocation], tmp_path: Path) -> None:
    store, location = bucket
    store.put("logs/log.jsonl", b"hello")
    path = fetch_file(store.describe("logs/log.jsonl"), tmp_path / "work", location, "warmStart.conversations")
    assert (path.name, path.read_bytes()) == ("log.jsonl", b"hello")
    with pytest.raises(BadDataError, match=r"warmStart.conversations: there is no object s3://.*/absent.jsonl"):
        fetch_file(store.describe("absent.jsonl"), tmp_path / "work", location, "warmStart.conversations")


def test_of_a_model_in_s3_what_is_loaded_is_downloaded(bucket: tuple[S3Store, StoreLocation], tmp_path: Path) -> None:
    store, location = bucket
    loaded = ["additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json", "generation_config.json"]
    loaded += ["merges.txt", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    loaded += ["model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model"]
    others = ["pytorch_model.bin", "model.gguf", "onnx/model.onnx", "original/params.json", "original/tokenizer.model"]
    others += ["README.md", "LICENSE.txt", "git/config", "consolidated.safetensors", "sub/config.json", "flax.msgpack"]
    for name in (*loaded, *others):
        store.put(f"model/{name}", name.encode())
    store.put("model-2/config.json", b"another")
    sizes: dict[str, int] = {}
    uri = store.describe("model")
    directory = fetch_directory(uri, tmp_path / "work", location, "policy.base", sizes.update, loaded_files)
    found = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    assert found == sorted(loaded)
    assert set(sizes) == {*loaded, *others}
    with pytest.raises(BadDataError, match=r"policy.base: there is nothing at s3://"):
        fetch_directory(store.describe("none"), tmp_path / "none", location, "policy.base")
