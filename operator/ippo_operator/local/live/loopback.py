"""Asks servers of this machine, which the runner started."""

import http.client
import socket

HOST = "127.0.0.1"
_SECONDS = 20.0
_MOST_BYTES = 1 << 20


def get(port: int, path: str) -> tuple[int, bytes] | None:
    """Status and body; None where nothing answers, not in time, or at length."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES + 1)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return (answer.status, body) if len(body) <= _MOST_BYTES else None


def free_port() -> int:
    """A port that nobody listens at. Somebody may take it before it is used: then the process is started again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def taken(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
