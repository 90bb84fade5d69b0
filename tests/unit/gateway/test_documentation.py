"""docs/gateway.md is carried out: its commands and its Python, against a gateway in front of a stub; its tables are the
code's."""

import asyncio
import json
import os
import re
import subprocess
import sys

import pytest
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.metrics import GatewayMetrics
from ippo_trainer.gateway.operations import OPERATIONS
from ippo_trainer.gateway.recorder import Recorder
from ippo_trainer.gateway.settings import GatewaySettings
from ippo_trainer.store import open_store

from tests.kit.chat import run
from tests.kit.doc_pages import ROOT, of_languages
from tests.kit.doc_scenes import Scene
from tests.kit.doc_shell import Shell
from tests.kit.gateways import ACTIVE
from tests.kit.ports import free_port
from tests.kit.stub_policy import StubPolicy
from tests.unit.gateway.test_process import process, write_routes

PAGE = "docs/gateway.md"
TEXT = (ROOT / PAGE).read_text()
KEY = "key-of-the-page-key-of-the-page"


def test_a_reader_gets_what_the_page_says(tmp_path):
    (tmp_path / "shell").mkdir()
    (tmp_path / "keys").write_text(f"reader chat,events {KEY}\n")
    shell = Shell(tmp_path / "shell", KEY=KEY, DIGEST=ACTIVE)

    async def check():
        async with StubPolicy(ACTIVE) as active:
            write_routes(tmp_path / "routes.json", active.url)
            async with process(tmp_path, "--keys", str(tmp_path / "keys")) as (_, public, _, _):
                settings = {
                    "http://localhost:8080": public,
                    "--port 8080": f"--port {free_port()}",
                    "8081": str(free_port()),
                    "http://localhost:8000": active.url,
                }
                done = await asyncio.to_thread(shell.carry_out, Scene(PAGE, settings=settings), 60)
                assert done.problems() == []
                asked, edited, closed, _, by_hand = done.printed
                answer = json.loads(asked)
                assert (answer["conversation_id"], answer["turn"], answer["model"]) == ("c1", 0, ACTIVE)
                assert json.loads(edited)["conversation_id"] == json.loads(closed)["conversation_id"] == "c1"
                assert f'"digest":"{ACTIVE}"' in by_hand
                [python] = [block for block in of_languages(["python"]) if block.page == PAGE]
                printed = await asyncio.to_thread(
                    subprocess.run,
                    [sys.executable, "-c", python.code.replace("http://localhost:8080", public)],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "KEY": KEY},
                )
                assert printed.stdout == "Ten for you.\n", printed.stderr

    run(check())


def rows(heading):
    """The cells of a section's tables."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]


def test_the_page_names_every_operation_with_its_scope():
    said = {(cells[0].strip("`"), cells[1]) for cells in rows("The API") if "/v1/" in cells[0]}
    assert said == {(f"{operation.method} {operation.path}", operation.scope) for operation in OPERATIONS}


def test_the_page_names_every_metric(tmp_path):
    settings = GatewaySettings(tmp_path, tmp_path / "journal", StoreLocation(directory=str(tmp_path)), 0, 0)
    recorder, metrics = Recorder(settings, open_store(settings.log)), GatewayMetrics()
    metrics.watch(recorder)
    named = {name for cells in rows("Metrics") for name in re.findall(r"`(ippo_\w+)`", cells[0])}
    shown = re.findall(r"^# TYPE (ippo_gateway_\w+) ", metrics.render().decode(), re.MULTILINE)
    recorder.close(5)
    assert named == {name for name in shown if not name.endswith("_created")}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("{} by default, or", GatewayLimits().requests),
        ("{} MiB of bodies", GatewayLimits().all_bytes >> 20),
        ("at most {} MiB, those of reports", GatewayLimits().body_bytes >> 20),
        ("those of reports {} KiB", GatewayLimits().report_bytes >> 10),
        ("`n` at most {}", GatewayLimits().choices),
        ("within {} seconds", GatewayLimits().body_seconds),
        ("takes nothing for {} seconds", GatewayLimits().write_seconds),
        ("says nothing for {}.", GatewayLimits().idle_seconds),
    ],
)
def test_the_page_has_the_limits(words, value):
    assert words.format(f"{value:g}") in TEXT
