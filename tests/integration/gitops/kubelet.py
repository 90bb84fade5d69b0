"""What kwok cannot do: end a stage's pod with the result that its spec asks for, when a test says so."""

from typing import Any

from tests.kit.background import Background
from tests.kit.control_plane import Api
from tests.kit.planner_world import good_result
from tests.kit.stage_ends import Ending, end_of, phase_of, terminated


class Kubelet(Background):
    """Ends the running pods of stages. Use as a context manager.

    Args:
        api: as an administrator.
    """

    def __init__(self, api: Api) -> None:
        super().__init__(interval=0.2)
        self._api = api
        self.endings: dict[str, Ending] = {}
        """By namespace of the run; all goes well where there is none."""
        self.ran: list[tuple[str, str]] = []
        """Namespace and Job of every pod that was ended."""

    def jobs(self, namespace: str) -> list[str]:
        """Jobs whose pods were ended there, each once, in order."""
        return list(dict.fromkeys(job for place, job in self.ran if place == namespace))

    def look(self) -> None:
        query = "labelSelector=ippo.dev/run-uid&fieldSelector=status.phase%3DRunning"
        for pod in self._api.get(f"/api/v1/pods?{query}").body.get("items") or ():
            self._look_at(pod)

    def _look_at(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        [owner] = metadata["ownerReferences"]
        if owner["kind"] != "Job" or "deletionTimestamp" in metadata:
            return
        place = metadata["namespace"]
        end = end_of(self._api, place, owner["name"], self.endings.get(place, good_result))
        if end is None:
            return
        [container] = pod["status"]["containerStatuses"]
        status = {
            "phase": phase_of(end[0]),
            "containerStatuses": [container | {"ready": False, "state": terminated(*end)}],
        }
        answer = self._api.merge(f"/api/v1/namespaces/{place}/pods/{metadata['name']}/status", {"status": status})
        if answer.code == 200:
            self.ran.append((place, owner["name"]))
        elif answer.code not in {404, 409}:
            raise AssertionError(answer.message)
