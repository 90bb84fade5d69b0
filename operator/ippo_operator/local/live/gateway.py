"""The gateway of a local run."""

import json
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from ippo_trainer.contract.layout import LIVE
from ippo_trainer.contract.live import REPORT_PATH, LiveReport, Routes
from pydantic import ValidationError

from ippo_operator.api.run_sections import Gateway
from ippo_operator.local.child import Program
from ippo_operator.local.files import write_atomically, write_json
from ippo_operator.local.live import loopback
from ippo_operator.local.live.kept import KeptProcess
from ippo_operator.local.live.servers import GRACE, LINGER, Place, flags
from ippo_operator.manifests.routes import routes_text

_PATIENCE = 5.0
"""Seconds that a port may be taken by the gateway of a runner that has just ended."""


class PortTakenError(Exception):
    """Somebody else listens where the gateway has to."""


def url_of(port: int) -> str:
    """Where applications ask."""
    return f"http://localhost:{port}"


def check_port(port: int) -> None:
    """Raises PortTakenError if somebody listens at the gateway's port."""
    deadline = time.monotonic() + _PATIENCE
    while loopback.taken(port):
        if time.monotonic() > deadline:
            raise PortTakenError(f"port {port} is taken; end who listens there, or set another spec.gateway.port")
        time.sleep(0.1)


class LocalGateway(KeptProcess):
    """An ippo-gateway in front of the policy servers.

    Args:
        place: of its files.
        clock: seconds that only grow.
    """

    def __init__(self, place: Place, clock: Callable[[], float]) -> None:
        super().__init__(place.folder / "gateway.log", clock)
        self._place = place
        self._settings = place.run.spec.gateway or Gateway()
        self._routes_file = place.folder / "routes.json"
        self._address = place.folder / "gateway.json"
        self._internal = 0
        self.routes: Routes | None = None
        """What it is told."""

    @property
    def port(self) -> int:
        """Where applications ask."""
        return self._settings.port

    def keep(self, routes: Routes) -> None:
        """Tells it the routes, and starts it if it does not run."""
        if routes != self.routes:
            write_atomically(self._routes_file, routes_text(routes).encode())
            self.routes = routes
        if self._keep():
            write_json(self._address, {"url": url_of(self.port), "run": self._place.run.metadata.name})

    def report(self) -> LiveReport | None:
        """What it says; None where it does not answer."""
        if self.process is None:
            return None
        answer = loopback.get(self._internal, REPORT_PATH)
        if answer is None or answer[0] != 200:
            return None
        try:
            return LiveReport.model_validate_json(answer[1])
        except ValidationError:
            return None

    def wait(self, until: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Waits for its end; nobody finds it any more then."""
        super().wait(until, hurry)
        self._address.unlink(missing_ok=True)

    def _start(self) -> BaseProcess:
        self._internal = loopback.free_port()
        settings, store = self._settings, self._place.store.below(LIVE)
        options = {
            "routes": self._routes_file,
            "journal": self._place.folder / "journal",
            "log": store.model_dump_json(by_alias=True, exclude_none=True),
            "port": self.port,
            "internal-port": self._internal,
            "keys": self._place.keys,
            "max-waiting": settings.max_waiting,
            "journal-bytes": settings.journal_bytes,
            "linger-seconds": LINGER,
            "grace-seconds": GRACE,
        }
        repeated = [f"--redact={redaction}" for redaction in settings.redact or ()]
        repeated += [f"--allow-origin={origin}" for origin in settings.allowed_origins or ()]
        program = Program(((self._place.launcher.programs.gateway, (*flags(options), *repeated)),), {}, self._log)
        return self._place.launcher.start_program(program)


def read_address(folder: Path) -> str | None:
    """Where the gateway of the run in this folder listens; None where there is none."""
    path = folder / "live" / "gateway.json"
    try:
        return str(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
