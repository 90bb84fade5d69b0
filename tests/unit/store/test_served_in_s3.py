"""What servers log into S3 is what collect.history reads from there."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.layout import SERVED
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.data.logs import LogReader
from ippo_trainer.serve.metrics import ServerMetrics
from ippo_trainer.serve.suggestion_log import SuggestionLog
from ippo_trainer.stages.history import local_log
from ippo_trainer.store import open_store

from tests.kit.chat import assistant, user
from tests.unit.data.test_server_log import record

from .conftest import BUCKET


@pytest.fixture
def location(moto: str, credentials: None, tmp_path: Path) -> StoreLocation:
    """Of a run's store."""
    s3 = S3Location(bucket=BUCKET, prefix=f"runs/{tmp_path.name}", endpoint_url=moto, region="us-east-1")
    return StoreLocation(s3=s3)


def log_into(location: StoreLocation, lines: list[dict[str, Any]]) -> None:
    log = SuggestionLog(open_store(location.below(SERVED)), ServerMetrics("sha256:" + "1" * 64, "r", lambda: 0).log())
    for line in lines:
        log.add(line)
    log.close(60)


def test_segments_go_to_s3_and_come_back(location: StoreLocation, tmp_path: Path) -> None:
    one, two = user("tea?"), user("how much?")
    log_into(location, [record("r1", [one], "we have tea")])
    log_into(location, [record("r2", [one, assistant("we have tea"), two], "ten")])
    store = open_store(location)
    store.put(f"{SERVED}/rows.jsonl", json.dumps({"id": "r2", "reaction": "edited", "sent": "nine"}).encode())
    folder = f"{store.describe(SERVED)}/"
    found = local_log(folder, tmp_path / "work", location, f"{folder}rows.jsonl")
    [conversation] = LogReader(found.path)
    assert [(turn.suggestion, turn.sent_message) for turn in conversation.turns] == [
        ("we have tea", "we have tea"),
        ("ten", "nine"),
    ]
    assert not (tmp_path / "work" / "segments" / "rows.jsonl").exists()
    again = local_log(folder, tmp_path / "again", location, f"{folder}rows.jsonl")
    assert again.digest == found.digest
    log_into(location, [record("r3", [one], "hello", conversation_id="other")])
    assert local_log(folder, tmp_path / "more", location).digest != found.digest


def test_reactions_need_a_folder(location: StoreLocation, tmp_path: Path) -> None:
    with pytest.raises(BadSpecError, match=r"collect.history.reactions belongs to a folder"):
        local_log("s3://some-bucket/log.jsonl", tmp_path, location, "s3://some-bucket/rows.jsonl")
