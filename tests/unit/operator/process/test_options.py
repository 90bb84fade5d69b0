"""Flags, environment variables and logs."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import aiohttp
import pytest
from ippo_operator.cluster import log_context
from ippo_operator.process import logs
from ippo_operator.process.options import parse
from kopf._cogs.clients.errors import APINotFoundError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL


def test_flags_come_before_the_environment() -> None:
    environment = {"IPPO_OPERATOR_IMAGE": "a:1", "IPPO_OPERATOR_WORKERS": "3", "IPPO_OPERATOR_NAMESPACE": "x,y"}
    options = parse(["--image", "b:2", "--namespace", "z", "--user", "none"], environment)
    assert options.platform.image == "b:2"
    assert options.platform.user is None
    assert options.workers == 3
    assert options.namespaces == ("z",)
    assert parse([], environment).namespaces == ("x", "y")
    assert parse([], environment).platform.user == 65532
    assert parse([], {"IPPO_OPERATOR_IMAGE": "a:1"}).namespaces == ()


def test_two_processes_of_one_pod_are_told_apart() -> None:
    environment = {"POD_NAME": "operator-0", "POD_NAMESPACE": "ippo", "IPPO_OPERATOR_IMAGE": "a:1"}
    one, two = parse([], environment), parse([], environment)
    assert one.identity != two.identity
    assert one.identity.startswith("operator-0_")
    assert one.lease_namespace == "ippo"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--image"),
        (["--image", "a", "--workers", "0"], "--workers"),
        (["--image", "a", "--port", "http"], "--port"),
        (["--image", "a", "--user", "root"], "--user"),
    ],
)
def test_wrong_settings_end_with_one_line(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags, {})
    assert ended.value.code == 64
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_help_teaches() -> None:
    command = [sys.executable, "-m", "ippo_operator.process.main", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for word in ("Lease", "examples:", "--namespace", "/readyz", "IPPO_OPERATOR_", "SIGTERM"):
        assert word in shown


def test_without_a_cluster_it_ends_at_once(tmp_path: object) -> None:
    command = [sys.executable, "-m", "ippo_operator.process.main", "--image", "a", "--port", "0"]
    environment = {"KUBECONFIG": f"{tmp_path}/nothing", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert ended.returncode == 64
    assert "no cluster" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("_own_logging")
def test_lines_name_run_stage_and_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    log_context.bind(namespace="team", run="small", stage="collect", attempt=2)
    logs.configure("json", "info")
    try:
        raise ValueError("bug\nin two lines")
    except ValueError:
        logging.getLogger("ippo.test").exception("odd %s", "thing")
    [line] = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert (document["run"], document["stage"], document["attempt"], document["message"]) == (
        "small",
        "collect",
        2,
        "odd thing",
    )
    assert "in two lines" in document["traceback"]
    logs.configure("text", "info")
    logging.getLogger("ippo.test").info("fine")
    assert "run=small stage=collect attempt=2 fine" in capsys.readouterr().err


@pytest.mark.usefixtures("_own_logging")
@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_the_server_answered_has_no_traceback_unless_asked(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As kopf's watcher ends when the CRD is removed between two of its requests."""
    logs.configure("json", level)
    url = URL("https://cluster/apis/ippo.dev")
    response = aiohttp.ClientResponseError(
        aiohttp.RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url), (), status=404
    )
    try:
        try:
            raise response
        except aiohttp.ClientResponseError as error:
            raise APINotFoundError("404 page not found", status=404, headers={}) from error
    except APINotFoundError as error:
        logging.getLogger("kopf._core").exception(f"Watcher has failed: {error}")
    document = json.loads(capsys.readouterr().err)
    assert document["message"] == "Watcher has failed: 404 page not found"
    assert ("traceback" in document) == (level == "debug")
