"""`ippo-gateway` as a process: arguments, files that change, both ports, and an end without losses."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
from ippo_trainer.contract.live import REPORT_PATH, LiveReport
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.gateway.cli import main
from ippo_trainer.gateway.client import GatewayClient, GatewayError, Reaction, Tries, Whose
from ippo_trainer.gateway.watched import Watched
from ippo_trainer.live.assignment import in_canary
from ippo_trainer.live.reading import events, segments
from ippo_trainer.store import open_store

from tests.kit.chat import run, user
from tests.kit.gateways import ACTIVE, CANDIDATE, routes
from tests.kit.stub_policy import StubPolicy

HELLO = [user("hello")]
KEY = "key-key-key-key-key"


def write_routes(path, active, candidate="http://127.0.0.1:1", share=None):
    """As the operator does: a new file in place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(routes(active, candidate, share).model_dump_json(by_alias=True, exclude_none=True))
    fresh.replace(path)


@asynccontextmanager
async def process(tmp_path, *more):
    """A gateway in a process of its own: it, its two addresses, and the lines of its log as they come."""
    command = ["--routes", str(tmp_path / "routes.json"), "--journal", str(tmp_path / "journal")]
    command += ["--log", f"file://{tmp_path}/live", "--port", "0", "--internal-port", "0", "--linger-seconds", "0"]
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ippo_trainer.gateway.cli", *command, *more, stderr=asyncio.subprocess.PIPE
    )
    lines = []

    async def until(words):
        while True:
            line = (await asyncio.wait_for(started.stderr.readline(), 60)).decode()
            lines.append(line)
            assert line, lines
            if re.search(words, line):
                return line

    try:
        ports = [re.search(r"port (\d+)", await until("listening on port"))[1] for _ in range(2)]
        await until("ready")
        internal, public = (f"http://127.0.0.1:{port}" for port in ports)
        yield started, public, internal, until
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def logged(tmp_path):
    store = open_store(StoreLocation(directory=str(tmp_path / "live")))
    return [event for key in segments(store, "") for event in events(store, key)]


def test_what_was_answered_before_the_end_is_in_the_store(tmp_path):
    async def check():
        async with StubPolicy(ACTIVE) as active:
            write_routes(tmp_path / "routes.json", active.url)
            async with process(tmp_path) as (started, public, internal, _), GatewayClient(public) as client:
                suggestion = await client.chat(HELLO, Whose("c1", "u7"))
                await client.react("c1", suggestion.turn, Reaction("accepted", suggestion_id=suggestion.id))
                await client.close_conversation("c1", outcome=True)
                async with aiohttp.ClientSession(internal) as session:
                    async with session.get("/metrics") as response:
                        text = await response.text()
                    async with session.get(REPORT_PATH) as response:
                        report = LiveReport.model_validate_json(await response.text())
                    for path in ("/healthz", "/readyz"):
                        assert (await session.get(path)).status == 200
                assert report.active.digest == ACTIVE
                assert "ippo_gateway_log_events_total 3.0" in text
                assert f'ippo_gateway_policy_info{{arm="active",digest="{ACTIVE}"}} 1.0' in text
                started.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(started.wait(), 60) == 0
            assert [event["kind"] for event in logged(tmp_path)] == ["suggestion", "reaction", "close"]
            # The next one counts what the last one left.
            async with process(tmp_path) as (_, _, internal, _), aiohttp.ClientSession(internal) as session:
                async with session.get(REPORT_PATH) as response:
                    report = LiveReport.model_validate_json(await response.text())
                assert (report.active.began, report.active.conversations, report.active.outcomes) == (1, 1, 1)

    run(check())


def test_who_asks_on_and_on_does_not_hold_up_the_end(tmp_path):
    async def ask(url, asked):
        while True:
            try:
                async with GatewayClient(url, tries=Tries(most=1)) as client:
                    await client.chat(HELLO)
                asked.set()
            except GatewayError:
                return

    async def check():
        async with StubPolicy(ACTIVE) as active:
            write_routes(tmp_path / "routes.json", active.url)
            async with process(tmp_path, "--grace-seconds=300") as (started, public, _, _):
                asked = asyncio.Event()
                customers = [asyncio.ensure_future(ask(public, asked)) for _ in range(4)]
                await asked.wait()
                started.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(started.wait(), 60) == 0
                await asyncio.gather(*customers)

    run(check())


def test_what_is_redacted_is_written_nowhere(tmp_path):
    async def check():
        async with StubPolicy(ACTIVE) as active, StubPolicy(CANDIDATE) as candidate:
            write_routes(tmp_path / "routes.json", active.url, candidate.url, "0.5")
            async with process(tmp_path, "--redact=Email") as (started, public, _, _), GatewayClient(public) as client:
                for number in range(20):
                    name = f"ana{number}@shop.example"
                    suggestion = await client.chat([user(f"I am {name}")], Whose(name, name))
                    await client.react(name, 0, Reaction("edited", f"Hi {name}", suggestion.id))
                started.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(started.wait(), 60) == 0
            events = logged(tmp_path)
            assert len(events) == 40
            assert "shop.example" not in json.dumps(events)
            # Readers, who know no other id, see each conversation on the side that answered it.
            for event in events[::2]:
                assert (event["arm"] == "candidate") == in_canary(CANDIDATE, event["conversation_id"], 0.5)
            assert {event["arm"] for event in events[::2]} == {"active", "candidate"}

    run(check())


def test_routes_and_keys_are_read_again_and_broken_ones_change_nothing(tmp_path):
    async def check():
        async with StubPolicy(ACTIVE) as active, StubPolicy(CANDIDATE) as candidate:
            file, keys = tmp_path / "routes.json", tmp_path / "keys"
            write_routes(file, active.url)
            keys.write_text(f"app chat,events {KEY}\n")
            async with process(tmp_path, "--keys", str(keys)) as (_, public, _, until):
                async with GatewayClient(public, KEY, Tries(1)) as client:
                    assert (await client.chat(HELLO)).policy_digest == ACTIVE
                    write_routes(file, active.url, candidate.url, "1")
                    await until("routes: read again")
                    assert (await client.chat(HELLO)).policy_digest == CANDIDATE
                    file.write_text('{"run": "demo"')
                    assert "what was read before still holds" in await until("routes .* cannot be read")
                    assert (await client.chat(HELLO)).policy_digest == CANDIDATE
                    keys.write_text(f"app chat {KEY}-more\n")
                    await until("keys: read again")
                    with pytest.raises(GatewayError, match="not known"):
                        await client.chat(HELLO)
                async with GatewayClient(public, f"{KEY}-more", Tries(1)) as client:
                    await client.chat(HELLO)
                    with pytest.raises(GatewayError, match="scope events"):
                        await client.complain("c1")

    run(check())


def arguments(tmp_path, **changed):
    said = {
        "routes": tmp_path / "routes.json",
        "journal": tmp_path / "journal",
        "log": f"file://{tmp_path}/live",
        "port": 0,
        "internal-port": 0,
    } | changed
    return [f"--{name}={value}" for name, value in said.items()]


def test_two_gateways_do_not_share_a_journal(tmp_path, caplog):
    async def check():
        write_routes(tmp_path / "routes.json", "http://127.0.0.1:1")
        async with process(tmp_path):
            assert await asyncio.to_thread(main_in_another_process, tmp_path) == 64

    run(check())


def main_in_another_process(tmp_path):
    command = [sys.executable, "-m", "ippo_trainer.gateway.cli", *arguments(tmp_path)]
    return os.spawnv(os.P_WAIT, sys.executable, command)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "No such file"), ("{", "json"), ("{}", "run"), ('{"run": "x", "active": {"digest": "x"}}', "digest")],
)
def test_routes_that_cannot_be_read_at_the_beginning(tmp_path, caplog, monkeypatch, text, words):
    if text is not None:
        (tmp_path / "routes.json").write_text(text)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with caplog.at_level(logging.ERROR):
        assert main(arguments(tmp_path)) == 65
    assert words.lower() in caplog.text.lower()


@pytest.mark.parametrize(
    "changed", [{"port": "many"}, {"max-waiting": 0}, {"log": "shop"}, {"allow-origin": "shop"}, {"surprise": 1}]
)
def test_wrong_arguments(tmp_path, changed, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments(tmp_path, **changed))
    assert caught.value.code == 64
    assert "ippo-gateway: " in capsys.readouterr().err


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for words in ("a file of routes", "a file of keys", "exit codes", "example", "SIGTERM"):
        assert words in text
    example = re.search(r'\{"run".*?\}\s*,\s*"idle".*?\}', text, re.DOTALL)[0].replace("sha256:…", ACTIVE)
    routes_said = json.loads(example)
    assert routes_said["active"]["digest"] == ACTIVE


def test_a_file_that_is_gone_or_large_keeps_what_was_read(tmp_path):
    path = tmp_path / "it"
    path.write_text("1")
    watched = Watched(path, "the file", int)
    for text in (None, "x" * (2 << 20), "\udcff"):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_bytes(text.encode(errors="surrogateescape"))
        watched.look()
        assert (watched.current, watched.stale) == (1, True)
    path.write_text("22")
    watched.look()
    assert (watched.current, watched.stale) == (22, False)
