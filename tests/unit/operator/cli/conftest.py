"""A cluster in memory whose runs `ippo` meets over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ippo_operator.cluster.remote.calls import Calls
from ippo_operator.cluster.remote.runs import Runs

from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo, ippo_command


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An API server, and KUBECONFIG for it."""
    with Server() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path)))
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def runs(server: Server) -> Iterator[Runs]:
    """What the server's user sees; retries at once."""
    with Calls(sleep=lambda _: None) as calls:
        yield Runs(calls)


@pytest.fixture
def ippo(capsys: pytest.CaptureFixture[str]) -> Ippo:
    """Runs a command."""

    return ippo_command(capsys)
