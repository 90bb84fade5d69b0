"""Gateways' logs under real faults: processes killed at random, a store that is down, a disk that is full, replicas
that are deleted, or gone while their disk stays. What was answered for is in the compacted data, once."""

import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.live.reading import events, segments
from ippo_trainer.live.standing import Rules
from ippo_trainer.live.table import TWICE, EventTable
from ippo_trainer.store import open_store
from moto.server import ThreadedMotoServer

from tests.e2e.faulty_store import FaultyStore
from tests.kit.live_writer import DOWN, FULL, TURNS
from tests.kit.waiting import until

REPLICAS = 3


class Gateways:
    """Replicas that share a store and nothing else.

    Args:
        folder: their directories are below it.
        location: of the store.
    """

    def __init__(self, folder: Path, location: StoreLocation) -> None:
        self.folder, self.location = folder, location
        self._lives = Counter[int]()
        self._answered: set[str] = set()
        """By replicas that are deleted."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def directory(self, replica: int) -> Path:
        """Of a replica's journal."""
        return self.folder / f"replica-{replica}"

    def start(self, replica: int) -> None:
        """Starts a replica; its conversations are new ones."""
        self._lives[replica] += 1
        command = [sys.executable, "-m", "tests.kit.live_writer", str(self.directory(replica))]
        command += [self.location.model_dump_json(exclude_none=True), f"r{replica}x{self._lives[replica]}"]
        self.processes[replica] = subprocess.Popen(command)

    def kill(self, replica: int) -> None:
        """By SIGKILL."""
        process = self.processes.pop(replica)
        assert process.poll() is None
        process.kill()
        process.wait()

    def end(self, replica: int) -> int:
        """By SIGTERM, once it is up; its exit code."""
        self.more(replica, 1)
        process = self.processes.pop(replica)
        process.terminate()
        return process.wait(120)

    def delete(self, replica: int) -> None:
        """Ends a replica, with its disk."""
        assert self.end(replica) == 0
        self._forget(replica)

    def empty(self, replica: int) -> None:
        """Kills a replica for good; another process brings what is on its disk into the store, then the disk goes."""
        self.kill(replica)
        command = [sys.executable, "-m", "ippo_trainer.gateway.put", "--journal", str(self.directory(replica))]
        command += ["--log", self.location.model_dump_json(exclude_none=True)]
        assert subprocess.run(command, timeout=120).returncode == 0
        self._forget(replica)

    def _forget(self, replica: int) -> None:
        self._answered |= self.answered(replica)
        shutil.rmtree(self.directory(replica))

    def answered(self, replica: int) -> set[str]:
        """Events that it was answered for; the last line may be cut off."""
        path = self.directory(replica) / "answered"
        return set(path.read_text().split("\n")[:-1]) if path.exists() else set()

    def all_answered(self) -> set[str]:
        """By all."""
        return self._answered.union(*(self.answered(replica) for replica in self._lives))

    def more(self, replica: int, lines: int) -> None:
        """Waits until a replica was answered for so many more events."""
        path = self.directory(replica) / "answered"

        def count() -> int:
            return path.stat().st_size if path.exists() else 0

        target = count() + 10 * lines
        until(lambda: count() >= target, f"{lines} more events of replica {replica}", 120)

    def close(self) -> None:
        """Kills what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def check(gateways: Gateways, path: Path) -> tuple[int, int]:
    """What was answered for is in the store, and in the conversations once; (events, conversations)."""
    store, counts = open_store(gateways.location), Counter[str]()
    table = EventTable(path, Rules(1800.0, 86400.0))
    stored: set[str] = set()
    for key in sorted(segments(store)):
        logged = list(events(store, key))
        stored |= {event["event_id"] for event in logged}
        table.add(key, logged, counts)
    answered = gateways.all_answered()
    assert not answered - stored
    assert not counts[TWICE]  # no segment came twice, though whoever reads would not mind
    table.settle(counts)
    [(number,)] = table.query("SELECT count(*) FROM events")
    assert number == len(stored)
    rows = list(table.query("SELECT name, outcome FROM conversations"))
    for name, outcome in rows:
        live = table.conversation(name, Counter())
        assert live is not None
        texts = [turn.suggestion for turn in live.content.turns]
        assert texts == [f"suggestion {turn}" for turn in range(len(texts))]
        expected = sum(f"{name}/{2 * turn + 1}" in stored for turn in range(TURNS))
        assert len(texts) == expected
        if f"{name}/{2 * TURNS + 1}" in stored:
            assert outcome == (int(name.rpartition("-")[2]) % 2 == 0)
    table.close()
    return len(answered), len(rows)


def chaos(gateways: Gateways, rounds: int, lines: int, down: Callable[[bool], None], seed: int) -> None:
    """Faults at random moments under load; each waits for so many events first."""
    generator = random.Random(seed)
    for replica in range(REPLICAS):
        gateways.start(replica)
    for number in range(rounds):
        replica = generator.randrange(REPLICAS)
        gateways.more(replica, generator.randint(1, lines))
        kind = ("kill", "down", "full", "empty", "delete")[number % 5]
        if kind == "kill":
            gateways.kill(replica)
            gateways.start(replica)
        elif kind in {"delete", "empty"}:
            (gateways.delete if kind == "delete" else gateways.empty)(replica)
            gateways.start(replica)
        elif kind == "down":
            down(True)
            gateways.more(replica, lines)
            gateways.kill(replica)
            gateways.start(replica)
            gateways.more(replica, lines // 4)
            down(False)
        else:
            full = gateways.directory(replica) / FULL
            full.touch()
            gateways.more((replica + 1) % REPLICAS, lines)
            full.unlink()
            gateways.more(replica, lines // 4)
    for replica in range(REPLICAS):
        assert gateways.end(replica) == 0


def test_no_event_that_was_answered_for_is_lost_or_doubled(tmp_path: Path) -> None:
    location = StoreLocation(directory=str(tmp_path / "store"))
    flag = tmp_path / f"store.{DOWN}"
    gateways = Gateways(tmp_path, location)
    try:
        chaos(gateways, 5, 200, lambda is_down: flag.touch() if is_down else flag.unlink(), 1)
    finally:
        gateways.close()
    answered, conversations = check(gateways, tmp_path / "table")
    assert answered > 500
    assert conversations > 50


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StoreLocation, FaultyStore]]:
    """A bucket, and what can take its service away."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing-testing-testing")
    with ExitStack() as stack:
        moto: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        moto.start()
        stack.callback(moto.stop)
        endpoint = "http://{}:{}".format(*moto.get_host_and_port())
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="live-tests")
        proxy = stack.enter_context(FaultyStore(endpoint, "127.0.0.1"))
        s3 = S3Location(bucket="live-tests", prefix="run/live", endpoint_url=proxy.endpoint, region="us-east-1")
        yield StoreLocation(s3=s3), proxy


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_100_000_events_none_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In S3, which is down for 60 seconds once."""
    pause, seconds = threading.Event(), [60.0]
    with s3(monkeypatch) as (location, proxy):

        def down(is_down: bool) -> None:
            if not is_down:
                pause.wait(seconds.pop() if seconds else 1)
            proxy.down = is_down

        gateways = Gateways(tmp_path, location)
        try:
            chaos(gateways, 15, 4000, down, 2)
        finally:
            gateways.close()
        answered, conversations = check(gateways, tmp_path / "table")
    with capsys.disabled():
        print(f"\n{answered} events answered for, {conversations} conversations, {proxy.failed} requests failed")
    assert answered >= 100_000
