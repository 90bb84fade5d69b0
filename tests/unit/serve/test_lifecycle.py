"""`ippo-serve` as a process: ready when it can answer, and gone without having lost a request."""

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

import aiohttp
import pytest
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.server_log import segments_in, write_served
from ippo_trainer.serve.cli import main

from tests.kit.chat import DIGEST, ask, ask_streamed, run, user
from tests.kit.forks import Fork
from tests.kit.waiting import until

ARGUMENTS = ["--engine", "Transformers", "--name", "demo", "--port", "0"]
SECONDS = 120


def fork(arguments, output, environment):
    return Fork(lambda: main(arguments), output, environment)


def command(arguments, output, environment):
    """As a pod starts it."""
    program = [sys.executable, "-m", "ippo_trainer.serve.cli"]
    return subprocess.Popen([*program, *arguments], stderr=output, env=os.environ | environment)


@dataclass
class Server:
    """A running `ippo-serve`."""

    process: subprocess.Popen[bytes] | Fork
    stderr: IO[str]
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        for line in self.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first group of the pattern in a line of the log."""
        with self.changed:
            found = self.changed.wait_for(
                lambda: re.search(pattern, "".join(self.lines)) or self.process.poll() is not None, SECONDS
            )
        match = re.search(pattern, "".join(self.lines))
        assert match, f"{pattern} never came ({found}): {''.join(self.lines)}"
        return match[1]

    @property
    def url(self) -> str:
        port = self.wait_for(r"listening on port (\d+)")
        return f"http://127.0.0.1:{port}"

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def server(directory, *arguments: str, start=fork) -> Iterator[Server]:
    end, output = os.pipe()
    process = start([*ARGUMENTS, "--policy", str(directory), *arguments], output, {"IPPO_POLICY_DIGEST": DIGEST})
    os.close(output)
    with os.fdopen(end) as stderr:
        made = Server(process, stderr)
        reader = threading.Thread(target=made.read, daemon=True)
        reader.start()
        try:
            yield made
        finally:
            process.kill()
            process.wait(SECONDS)
            reader.join(SECONDS)


@pytest.fixture(scope="module")
def running(policy_directory):
    with server(policy_directory, "--max-tokens", "12", "--linger-seconds", "0.2") as made:
        made.wait_for(r"(ready: policy)")
        yield made


def test_it_is_alive_while_it_loads_and_ready_when_it_can_answer(policy_directory):
    async def check(made):
        async with aiohttp.ClientSession(made.url) as client:
            statuses = []
            while 200 not in statuses:
                async with client.get("/readyz") as ready, client.get("/healthz") as alive:
                    assert alive.status == 200
                    statuses.append(ready.status)
                if statuses[-1] == 503:
                    async with client.post("/v1/chat/completions", json={"messages": [user("hello")]}) as response:
                        assert response.status in (200, 503)  # it may have become ready
            assert set(statuses) <= {200, 503}
            async with client.post("/v1/chat/completions", json={"messages": [user("hello")]}) as response:
                assert response.status == 200

    with server(policy_directory, start=command) as made:
        run(check(made))


def test_sigterm_under_load_fails_no_request(policy_directory):
    """Clients with open connections keep asking until the server closes theirs; then they would go elsewhere."""
    answered: list[int] = []

    async def client_of(url, number, started):
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=1)) as client:
            for seed in range(10_000):
                body = {"messages": [user(f"hello {number}")], "seed": seed, "stream": bool(number % 2)}
                async with client.post("/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    assert response.status == 200, text
                    assert not body["stream"] or text.endswith("data: [DONE]\n\n")
                    closes = response.headers.get("Connection") == "close"
                answered.append(number)
                started.set()
                if closes:
                    return

    async def check(made):
        started = [asyncio.Event() for _ in range(8)]
        clients = [asyncio.create_task(client_of(made.url, number, event)) for number, event in enumerate(started)]
        waiting = asyncio.gather(*(event.wait() for event in started))
        await asyncio.wait({waiting, *clients}, return_when=asyncio.FIRST_COMPLETED)
        made.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        assert await asyncio.to_thread(made.process.wait, SECONDS) == 0

    with server(policy_directory, "--max-tokens", "12", "--linger-seconds", "1") as made:
        made.wait_for(r"(ready: policy)")
        run(check(made))
    assert len(answered) >= 8


def test_sigterm_writes_the_log_of_all_that_was_answered(policy_directory, tmp_path):
    """However long a segment may wait."""
    with server(
        policy_directory, "--max-tokens", "12", "--linger-seconds", "0.2", "--log", f"file://{tmp_path}"
    ) as made:
        made.wait_for(r"(ready: policy)")
        answers = run(asked_alone(made.url, 20))
        assert made.end() == 0
    assert {line["id"] for line in logged_lines(tmp_path)} == answers


async def asked_alone(url, count):
    async with aiohttp.ClientSession(url) as client:
        return {(await ask(client, [user(f"hello {number}")]))["id"] for number in range(count)}


def logged_lines(directory):
    return [json.loads(line) for path in segments_in(directory) for line in gzip.open(path, "rt")]


def test_killed_under_load_it_loses_what_was_not_in_a_segment_and_doubles_nothing(policy_directory, tmp_path):
    """Whole segments are there, each line once; all that was answered a segment's time before the end is in them."""
    answered: list[str] = []

    async def client_of(url, number):
        async with aiohttp.ClientSession(url) as client:
            with suppress(aiohttp.ClientError):
                while True:
                    metadata = {"conversation_id": f"{number}-{len(answered)}"}
                    answered.append((await ask(client, [user("hello")], metadata=metadata))["id"])

    async def check(made):
        clients = [asyncio.create_task(client_of(made.url, number)) for number in range(4)]
        await asyncio.to_thread(until, lambda: bool(segments_in(tmp_path)), "a segment", SECONDS)
        made.process.kill()
        await asyncio.gather(*clients)

    with server(policy_directory, "--max-tokens", "4", "--log", f"file://{tmp_path}") as made:
        made.wait_for(r"(ready: policy)")
        run(check(made))
    lines = [line["id"] for line in logged_lines(tmp_path)]
    assert len(lines) == len(set(lines)) > 0
    assert set(answered[: len(lines) - 4]) <= set(lines)  # four are asked for at once, in any order
    target = tmp_path / "log.jsonl"
    assert not write_served(segments_in(tmp_path), target, tmp_path / "parts")
    assert len(list(LogReader(target))) == len(lines)


def test_it_ends_at_once_while_it_loads(policy_directory):
    with server(policy_directory) as made:
        made.wait_for(r"(listening)")
        assert made.end() == 0


def test_a_client_that_goes_away_frees_its_rows(running):
    async def check():
        async with aiohttp.ClientSession(running.url) as client:
            for _ in range(3):
                request = asyncio.create_task(ask_streamed(client, [user("hello")], n=8))
                await asyncio.sleep(0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
            await ask_streamed(client, [user("hello")])
            while "ippo_serve_requests_in_flight 0.0" not in await (await client.get("/metrics")).text():
                pass

    run(check())


def bad(tmp_path, policy_directory, kind):
    directory = tmp_path / "policy"
    if kind != "missing":
        directory.mkdir()
    if kind in ("no prompt", "damaged", "too large"):
        for path in policy_directory.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
    if kind == "no prompt":
        (directory / "prompt.json").unlink()
    if kind == "damaged":
        (directory / "model.safetensors").write_bytes(b"\0" * 64)
    return directory


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "there is no policy directory"),
        ("empty", "no *.safetensors"),
        ("no prompt", "prompt.json is missing"),
        ("damaged", "model.safetensors is damaged"),
    ],
)
def test_a_folder_that_is_no_policy_ends_it_with_one_line(tmp_path, policy_directory, kind, words, monkeypatch, capsys):
    monkeypatch.setenv("IPPO_POLICY_DIGEST", DIGEST)
    assert main([*ARGUMENTS, "--policy", str(bad(tmp_path, policy_directory, kind))]) == 65
    said = capsys.readouterr().err
    assert re.search(rf"ERROR .*{re.escape(words)}", said)
    assert said.count("ERROR") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("digest", ["", "latest"])
def test_without_a_digest_it_does_not_start(policy_directory, digest, monkeypatch, capsys):
    monkeypatch.delenv("IPPO_POLICY_DIGEST", raising=False)
    if digest:
        monkeypatch.setenv("IPPO_POLICY_DIGEST", digest)
    assert main([*ARGUMENTS, "--policy", str(policy_directory)]) == 64
    assert "IPPO_POLICY_DIGEST" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(policy_directory, running, monkeypatch, capsys):
    monkeypatch.setenv("IPPO_POLICY_DIGEST", DIGEST)
    port = running.url.rsplit(":", 1)[1]
    assert main([*ARGUMENTS, "--policy", str(policy_directory), "--port", port]) == 64
    assert f"cannot listen on port {port}" in capsys.readouterr().err
