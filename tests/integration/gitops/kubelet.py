"""What kwok cannot do: end a stage's pod with the result that its spec asks for, when a test says so."""

import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeAlias

from ippo_trainer.contract.spec import StageResult, StageSpec

from tests.kit.control_plane import Api
from tests.kit.planner_world import good_result

Ending: TypeAlias = Callable[[StageSpec], StageResult | tuple[int, str] | None]
"""How a stage ends: a result, or an exit code and a termination message; None: it goes on for now."""


class Kubelet:
    """Ends the running pods of stages. Use as a context manager.

    Args:
        api: as an administrator.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.endings: dict[str, Ending] = {}
        """By namespace of the run; all goes well where there is none."""
        self.ran: list[tuple[str, str]] = []
        """Namespace and Job of every pod that was ended."""
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def jobs(self, namespace: str) -> list[str]:
        """Jobs whose pods were ended there, each once, in order."""
        return list(dict.fromkeys(job for place, job in self.ran if place == namespace))

    def _loop(self) -> None:
        query = "labelSelector=ippo.dev/run-uid&fieldSelector=status.phase%3DRunning"
        while not self._stop.wait(0.2):
            try:
                for pod in self._api.get(f"/api/v1/pods?{query}").body.get("items") or ():
                    self._look_at(pod)
            except Exception:
                self.errors.append(traceback.format_exc())

    def _look_at(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        [owner] = metadata["ownerReferences"]
        if owner["kind"] != "Job" or "deletionTimestamp" in metadata:
            return
        place = metadata["namespace"]
        config = self._api.get(f"/api/v1/namespaces/{place}/configmaps/{owner['name']}")
        if config.code == 404:
            return  # cleaned up meanwhile
        spec = StageSpec.model_validate_json(config.body["data"]["spec.json"])
        ended = self.endings.get(place, good_result)(spec)
        if ended is None:
            return
        code, message = (0, ended.to_message().decode()) if isinstance(ended, StageResult) else ended
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        terminated = {"exitCode": code, "message": message, "startedAt": now, "finishedAt": now}
        [container] = pod["status"]["containerStatuses"]
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [container | {"ready": False, "state": {"terminated": terminated}}],
        }
        answer = self._api.merge(f"/api/v1/namespaces/{place}/pods/{metadata['name']}/status", {"status": status})
        if answer.code == 200:
            self.ran.append((place, owner["name"]))
        elif answer.code not in {404, 409}:
            raise AssertionError(answer.message)
