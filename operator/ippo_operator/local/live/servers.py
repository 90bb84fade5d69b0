"""The policy servers of a local run: one for each policy that is asked."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ippo_trainer.contract.spec import Digest, StoreLocation
from ippo_trainer.contract.variables import POLICY_DIGEST

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import Serve
from ippo_operator.api.status import DeployedPolicy
from ippo_operator.local.child import Program
from ippo_operator.local.live import loopback
from ippo_operator.local.live.kept import KeptProcess
from ippo_operator.local.processes import Launcher

GRACE, LINGER = 50.0, 0.5
"""Seconds of an end. Requests that still come are few: routes change long before a server ends."""
_HOPELESS = 5
"""Failures in a row after which servers are not expected to get ready."""


@dataclass(frozen=True)
class Place:
    """What all servers of a run have in common."""

    folder: Path
    """Of the gateway and its servers."""
    store: StoreLocation
    run: IterativePPORun
    launcher: Launcher
    keys: Path | None = None
    """Of the gateway; without them, everybody who reaches it may ask and report."""


class PolicyServer(KeptProcess):
    """An ippo-serve of one policy, at a port of its own."""

    def __init__(self, place: Place, policy: DeployedPolicy, clock: Callable[[], float]) -> None:
        name = policy.artifact.digest.removeprefix("sha256:")[:16]
        super().__init__(place.folder / f"server-{name}.log", clock)
        self.policy = policy
        self.port = 0
        self._place = place
        self._model = place.folder / "policies" / name
        self._ready = False
        self.retire_at: float | None = None
        """When it is told to end; None while it is needed."""

    @property
    def digest(self) -> Digest:
        """Of its policy."""
        return self.policy.artifact.digest

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://{loopback.HOST}:{self.port}"

    @property
    def failure(self) -> str:
        """Why it will not get ready; empty while it may."""
        return self.last_words() if not self._ready and (self.hopeless or self.failures >= _HOPELESS) else ""

    def keep(self) -> None:
        """Starts it, again if it ended."""
        if self._keep():
            self._ready = False

    def ready(self) -> bool:
        """Whether it takes requests."""
        if self.process is None:
            self._ready = False
        elif not self._ready:
            answer = loopback.get(self.port, "/readyz")
            self._ready = answer is not None and answer[0] == 200
        return self._ready

    def wait(self, until: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Waits for its end, then removes the files of its policy."""
        super().wait(until, hurry)
        shutil.rmtree(self._model, ignore_errors=True)

    def _start(self) -> BaseProcess:
        self.port = loopback.free_port()
        commands = (
            (self._place.launcher.programs.fetch, flags(self._fetch())),
            (self._place.launcher.programs.serve, flags(self._serve())),
        )
        return self._place.launcher.start_program(Program(commands, {POLICY_DIGEST: self.digest}, self._log))

    def _fetch(self) -> dict[str, object]:
        store = self._place.store.model_dump_json(by_alias=True, exclude_none=True)
        artifact = self.policy.artifact
        return {
            "store": store,
            "kind": "policy",
            "key": artifact.key,
            "digest": artifact.digest,
            "to": self._model,
        }

    def _serve(self) -> dict[str, object]:
        spec = self._place.run.spec
        settings = spec.serve or Serve()
        return {
            "policy": self._model,
            "port": self.port,
            "address": loopback.HOST,
            "engine": settings.engine,
            "name": self._place.run.metadata.name,
            "max-tokens": settings.max_tokens or spec.policy.max_new_tokens,
            "max-waiting": settings.max_waiting,
            "linger-seconds": LINGER,
            "grace-seconds": GRACE,
        }


def flags(options: dict[str, object]) -> tuple[str, ...]:
    """`--name=value` of each that has a value."""
    return tuple(f"--{name}={value}" for name, value in options.items() if value is not None)
