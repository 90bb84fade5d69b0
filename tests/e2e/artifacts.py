"""What a run has published, in a bucket or in a folder, verified file by file."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
from ippo_trainer.data.schema import Conversation, Turn

from .place import Store

MANIFEST = "/manifest.json"
Files = dict[str, bytes]


def client(store: Store) -> Any:
    """An S3 client."""
    return boto3.client(
        "s3",
        endpoint_url=store.local,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name="us-east-1",
    )


def in_bucket(store: Store, bucket: str, prefix: str) -> Files:
    """All objects below a prefix, by the rest of their key."""
    s3, files = client(store), {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            files[entry["Key"].removeprefix(prefix).lstrip("/")] = body
    return files


def in_folder(folder: Path) -> Files:
    """All files below a folder, by their path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(files: Files) -> dict[str, str]:
    """SHA-256 of the manifest of every artifact, by folder; fails the test if a file is not what its manifest says."""
    digests = {}
    for path, body in files.items():
        if not path.endswith(MANIFEST):
            continue
        folder, digest = path.removesuffix(MANIFEST), hashlib.sha256(body).hexdigest()
        assert digest.startswith(folder.rpartition("/")[2]), f"{path} has another digest than its folder"
        for entry in json.loads(body)["files"]:
            data = files[f"{folder}/{entry['path']}"]
            assert len(data) == entry["size"], f"{folder}/{entry['path']}"
            assert hashlib.sha256(data).hexdigest() == entry["sha256"], f"{folder}/{entry['path']}"
        digests[folder] = digest
    assert digests, "nothing is published"
    return digests


def ledger(files: Files) -> list[dict[str, Any]]:
    """A line per iteration."""
    return [json.loads(line) for line in files["ledger.jsonl"].decode().splitlines()]


def file_of(files: Files, key: str, suffix: str) -> bytes:
    """The one file of an artifact whose path ends so."""
    [body] = [body for path, body in files.items() if path.startswith(f"{key}/") and path.endswith(suffix)]
    return body


def segments(files: Files, folder: str) -> Iterator[dict[str, Any]]:
    """What is in the segments of a log, of servers or of gateways."""
    for path, body in sorted(files.items()):
        if path.startswith(folder) and path.endswith(".jsonl.gz"):
            yield from map(json.loads, gzip.decompress(body).splitlines())


def live_events(files: Files) -> Iterator[dict[str, Any]]:
    """What is in the segments of the live log."""
    return segments(files, "live/")


def answers(files: Files) -> dict[str, set[tuple[str, str | None]]]:
    """What policies suggested, with their digests, by live conversation."""
    answers: dict[str, set[tuple[str, str | None]]] = {}
    for event in live_events(files):
        if event["kind"] == "suggestion":
            record = event["suggestion"]
            answers.setdefault(event["conversation_id"], set()).add((record["policy_digest"], record["suggestion"]))
    return answers


def untraced(
    conversations: Iterable[Conversation], digest: str, answers: dict[str, set[tuple[str, str | None]]]
) -> list[tuple[str, Turn]]:
    """Turns of a live data set whose suggestion no event says to be of the policy with that digest.

    A customer that asked twice may have had two answers, of two policies: what counts is the one that was sent.
    """
    return [
        (conversation.id, turn)
        for conversation in conversations
        for turn in conversation.turns
        if turn.policy_digest != digest or (digest, turn.suggestion) not in answers[conversation.id]
    ]
