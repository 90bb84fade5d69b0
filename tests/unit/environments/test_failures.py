"""Which exceptions of a simulator are about the moment, and how a fault of its code is named."""

import errno
import http.client
import socket
import ssl
import urllib.error
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from botocore.exceptions import ClientError, EndpointConnectionError
from ippo_trainer.contract.errors import BadDataError, BadSpecError, TryAgainError
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.environments import TryAgain, load
from ippo_trainer.environments.failures import failure


def named(name: str, **fields: Any) -> Exception:
    """As a library defines it, which need not be installed."""
    error: Exception = type(name, (Exception,), {})("said so")
    for field, value in fields.items():
        setattr(error, field, value)
    return error


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def in_the_handling_of(error: Exception, context: BaseException) -> Exception:
    error.__context__ = context
    return error


def http_error(status: int) -> Exception:
    return urllib.error.HTTPError("http://customers", status, "no", Message(), None)


def answered(status: int) -> Any:
    return {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}


PASSING = [
    TryAgain("the model still loads"),
    named("TryAgain"),
    TimeoutError(),
    ConnectionRefusedError(),
    BrokenPipeError(),
    OSError(errno.EHOSTUNREACH, "no route"),
    socket.gaierror(socket.EAI_AGAIN, "try again"),
    ssl.SSLEOFError(),
    http.client.RemoteDisconnected("gone"),
    http.client.IncompleteRead(b""),
    http_error(429),
    http_error(503),
    urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
    urllib3.exceptions.NewConnectionError(None, "no"),  # type: ignore[arg-type]
    ClientError(answered(429), "InvokeModel"),
    EndpointConnectionError(endpoint_url="http://customers"),
    named("HTTPError", response=SimpleNamespace(status_code=429)),  # requests
    named("HTTPStatusError", response=SimpleNamespace(status_code=502)),  # httpx
    named("ConnectTimeout", status_code=504),
    named("RateLimitError", status_code=429),  # openai
    named("APIConnectionError"),
    named("ClientResponseError", status=429),  # aiohttp
    caused(RuntimeError("the customer did not answer"), TimeoutError()),
    caused(ValueError(), caused(KeyError(), http_error(429))),
    ExceptionGroup("turns", [TimeoutError(), ConnectionResetError()]),
]
FAULTS = [
    ZeroDivisionError(),
    ValueError("429"),
    KeyError("x"),
    FileNotFoundError(errno.ENOENT, "no file"),
    PermissionError(errno.EACCES, "no"),
    SystemExit(429),
    http_error(401),
    http_error(404),
    ssl.SSLCertVerificationError(),
    ClientError(answered(403), "InvokeModel"),
    named("HTTPError", response=SimpleNamespace(status_code=400)),
    named("Odd", status_code="429", code=True, response={"ResponseMetadata": None}),
    in_the_handling_of(NameError("retry"), TimeoutError()),
    ExceptionGroup("turns", [TimeoutError(), KeyError("x")]),
]


def words(error: BaseException) -> str:
    return f"{type(error).__name__} {error}"


@pytest.mark.parametrize("error", PASSING, ids=words)
def test_what_passes_is_tried_again(error: BaseException) -> None:
    assert isinstance(failure("Shop.step raised", error), TryAgainError)


@pytest.mark.parametrize("error", FAULTS, ids=words)
def test_what_does_not_is_a_fault_of_the_code(error: BaseException) -> None:
    assert isinstance(failure("Shop.step raised", error), BadDataError)


def test_a_circle_of_causes_has_an_end() -> None:
    error = caused(ValueError(), caused(KeyError(), RuntimeError()))
    assert error.__cause__ is not None
    error.__cause__.__cause__ = error
    assert isinstance(failure("Shop.step raised", error), BadDataError)


SHOP = """
import json

if {at_import}:
    raise TimeoutError("no licence server")

class Shop:
    def __init__(self):
        if {at_start}:
            raise ConnectionError("no model")

    @property
    def max_turns(self):
        return self.turns if {in_property} else 1

    @property
    def turns(self):
        raise TimeoutError("no settings")

    def reset(self, seeds):
        return self.greet(seeds)

    def greet(self, seeds):
        return json.loads("{{")

    step = None.__class__
"""


@pytest.mark.parametrize("where", ["at_import", "at_start", "in_property"])
def test_an_environment_that_cannot_start_now_is_tried_again(tmp_path: Path, where: str) -> None:
    file = tmp_path / f"{where}.py"
    file.write_text(SHOP.format(**{"at_import": False, "at_start": False, "in_property": False, where: True}))
    with pytest.raises(TryAgainError, match=r"no licence server|no model|no settings"):
        load(EnvironmentSpec(name=f"{file}:Shop"))


def test_a_fault_is_named_with_the_line_of_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text(SHOP.format(at_import=False, at_start=False, in_property=False))
    environment = load(EnvironmentSpec(name=f"{file}:Shop"))
    with pytest.raises(BadDataError, match=r"Shop.reset raised JSONDecodeError: .*\(shop.py, line 24, in greet\)"):
        environment.reset([1])
    file.with_name("early.py").write_text("\n\n1 / 0\n")
    with pytest.raises(BadSpecError, match=r"ZeroDivisionError: division by zero \(early.py, line 3, in <module>\)"):
        load(EnvironmentSpec(name=f"{file.with_name('early.py')}:Shop"))
