"""`ippo chat`: a conversation as the customer and as the business, through a pipe and on a terminal."""

import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ippo_operator.local.folder import RunFolder

from tests.kit.fake_gateway import FakeGateway
from tests.kit.ippo_command import Ippo
from tests.kit.planner_world import make_run

SUGGESTIONS = {"hello": "which tea do you like", "mumble": None, "odd": "\x1b[31mred\x1b[0m\nline"}
COMMAND = [sys.executable, "-m", "ippo_operator.cli.main", "chat"]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(lambda message: SUGGESTIONS.get(message, "anything else")) as running:
        yield running


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lines that come through a pipe."""
    lines: list[str] = []

    class Pipe(io.StringIO):
        def readline(self, *_: object) -> str:
            return f"{lines.pop(0)}\n" if lines else ""

    monkeypatch.setattr(sys, "stdin", Pipe())
    return lines


def test_as_the_customer_what_is_suggested_is_sent(gateway: FakeGateway, typed: list[str], ippo: Ippo) -> None:
    typed += ["hello", "mumble", "", "x", "y"]
    said = ippo("chat", "--url", gateway.url, "--conversation", "c 1/2", "--customer", "anna")
    assert (said.code, said.err) == (0, "")
    assert gateway.told_of_one == [
        ("asks", 0, "hello"),
        ("turns/0/reaction", {"reaction": "accepted", "suggestion_id": "c 1/2-0"}),
        ("asks", 1, "mumble"),
        ("turns/1/reaction", {"reaction": "rejected", "suggestion_id": "c 1/2-1"}),
        ("close", {"outcome": True}),
    ]
    assert gateway.asked[0]["metadata"] == {"conversation_id": "c 1/2", "customer_id": "anna", "group": "chat"}
    assert gateway.asked[1]["messages"][1] == {
        "role": "assistant",
        "content": "which tea do you like",
        "suggestion": "which tea do you like",
        "reaction": "accepted",
    }
    assert said.out.splitlines()[1:5] == [
        "customer:   hello",
        "business:   which tea do you like",
        "customer:   mumble",
        "business:   (says nothing)",
    ]
    assert said.out.endswith("conversation c 1/2 is over: with the outcome\n")


def test_as_the_business_suggestions_are_accepted_edited_and_rejected(
    gateway: FakeGateway, typed: list[str], ippo: Ippo
) -> None:
    typed += ["hello", "what", "a", "more", "e", "anything at all", "more", "e", "anything else", "more", "r", "", "no"]
    typed += ["mumble", "pardon", "", "n"]
    assert ippo("chat", "--url", gateway.url, "--as", "business").code == 0
    reactions = [each[1] for each in gateway.told_of_one if each[0].startswith("turns")]  # type: ignore[index]
    assert [(each["reaction"], each.get("sent")) for each in reactions] == [
        ("accepted", None),
        ("edited", "anything at all"),
        ("accepted", None),
        ("rejected", "no"),
        ("rejected", "pardon"),
    ]
    assert gateway.told_of_one[-1] == ("close", {"outcome": False})
    sent = [message["content"] for message in gateway.asked[-1]["messages"] if message["role"] == "assistant"]
    assert sent == ["which tea do you like", "anything at all", "anything else", "no"]


@pytest.mark.parametrize("role", ["customer", "business"])
@pytest.mark.parametrize("lines", [["hello"], ["hello", "a", "more"], ["hello", "e"]])
def test_the_end_of_the_input_ends_a_conversation_whose_outcome_nobody_knows(
    gateway: FakeGateway, typed: list[str], ippo: Ippo, role: str, lines: list[str]
) -> None:
    typed += lines
    assert ippo("chat", "--url", gateway.url, "--as", role).code == 0
    assert gateway.told_of_one[-1] == ("close", {})


def test_a_conversation_in_which_nothing_was_said_leaves_no_trace(
    gateway: FakeGateway, typed: list[str], ippo: Ippo
) -> None:
    assert ippo("chat", "--url", gateway.url).code == 0
    assert gateway.told == {}


def test_text_of_a_policy_reaches_no_terminal_as_it_is(gateway: FakeGateway, typed: list[str], ippo: Ippo) -> None:
    typed += ["odd", "\udcff"]
    said = ippo("chat", "--url", gateway.url)
    assert "\x1b" not in said.out
    assert "red" in said.out
    assert gateway.told_of_one[2] == ("asks", 1, "?")


def test_a_key_is_taken_from_the_environment_and_asked_for_where_it_is_wrong(
    typed: list[str], ippo: Ippo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway(lambda message: "hi", key="secret") as gateway:
        typed += ["hello"]
        said = ippo("chat", "--url", gateway.url)
        assert said.code == 64
        assert "401: refused with 401; set IPPO_GATEWAY_KEY to a key" in said.err
        monkeypatch.setenv("IPPO_GATEWAY_KEY", "secret")
        typed += ["hello"]
        assert ippo("chat", "--url", gateway.url).code == 0


def test_on_a_terminal_a_suggestion_is_there_to_be_edited(gateway: FakeGateway) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--url", gateway.url, "--as", "business"],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**os.environ, "TERM": "dumb"},
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, 0x540E, 0)),  # TIOCSCTTY: the terminal is this process's own
    )
    os.close(end)
    shown = ""
    for prompt, answer in [
        ("customer:   ", "hello\n"),
        ("r reject: ", "e\n"),
        ("send:       which tea do you like", " best\n"),
        ("customer:   ", "\n"),
        ("known yet: ", "y\n"),
    ]:
        shown += _until(terminal, prompt)
        os.write(terminal, answer.encode())
    assert process.wait(60) == 0
    os.close(terminal)
    edited = {"reaction": "edited", "sent": "which tea do you like best"}
    [_, (path, body), close] = gateway.told_of_one  # type: ignore[misc]
    assert (path, {name: body[name] for name in edited}) == ("turns/0/reaction", edited)
    assert close == ("close", {"outcome": True})


def _until(terminal: int, text: str) -> str:
    """Reads until that is shown. Raises OSError where the command ends before."""
    shown = ""
    while text not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


def test_a_folder_without_a_gateway_says_why_and_what_to_do(
    ippo: Ippo, tmp_path: Path, gateway: FakeGateway, typed: list[str]
) -> None:
    def folder(name: str, **spec: object) -> RunFolder:
        run = make_run(**spec)
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.begin(run)
        return folder

    logged = {"collect": {"logged": {}}, "serve": {}, "warmStart": {"conversations": "file:///x.jsonl"}}
    simulated, live = folder("simulated"), folder("live", **logged)
    assert "has no gateway: its spec has no collect.logged" in ippo("chat", str(simulated.path)).err
    assert (
        "is not at work, so there is no gateway to talk to; start it with: ippo run" in ippo("chat", str(live.path)).err
    )
    with live.lock():
        assert "has no policy yet, or its gateway starts" in ippo("chat", str(live.path)).err
        live.live.mkdir()
        (live.live / "gateway.json").write_text(json.dumps({"url": gateway.url}))
        typed += ["hello"]
        assert ippo("chat", str(live.path)).code == 0
    assert len(gateway.told) == 1
    assert "port-forward service/shop-gateway 8080" in ippo("chat", "shop").err
    assert "give either" in ippo("chat", "shop", "--url", "http://x").err
    assert "--url is x" in ippo("chat", "--url", "x").err


def test_a_gateway_that_is_gone_is_a_line(ippo: Ippo, typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: object) -> None:
        return

    monkeypatch.setattr("asyncio.sleep", at_once)
    typed += ["hello"]
    said = ippo("chat", "--url", "http://127.0.0.1:9")
    assert said.code == 75
    assert said.err.startswith("the gateway at http://127.0.0.1:9 says nothing answers")
