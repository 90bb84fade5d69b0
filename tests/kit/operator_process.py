"""The operator as a process, as it runs in a pod."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.kit.control_plane import ControlPlane
from tests.kit.ports import free_port
from tests.kit.waiting import until


class Operator:
    """`ippo-operator` against a control plane. Use as a context manager.

    Args:
        plane: what it talks to.
        folder: for its log.
        flags: more command line.
        kubeconfig: whom it acts as; by default an administrator.
    """

    def __init__(self, plane: ControlPlane, folder: Path, *flags: str, kubeconfig: Path | None = None) -> None:
        self.port = free_port()
        self.log = folder / f"operator-{self.port}.log"
        self._command = [sys.executable, "-m", "ippo_operator.process.main", "--image", "stages:test"]
        self._command += ["--port", str(self.port), "--log-format", "json", *flags]
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig or plane.kubeconfig)}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it; does not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def probe(self, path: str) -> tuple[int, Any]:
        """Status and body of an HTTP endpoint; 0 while nobody listens."""
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self) -> None:
        """Until /readyz says yes."""
        try:
            until(lambda: self.probe("/readyz")[0] == 200, "the operator is ready", 60)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from None
