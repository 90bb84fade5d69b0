"""The rules of kstatus (sigs.k8s.io/cli-utils) for a kind that it does not know, as far as they look at a run.

The integration tests compare this with the real program on the same objects.
"""

from typing import Any


def kstatus(item: dict[str, Any]) -> str:
    """InProgress, Failed, Current or Terminating."""
    if item["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = item.get("status") or {}
    if "observedGeneration" in status and status["observedGeneration"] != item["metadata"]["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    ready = [condition["status"] for condition in conditions if condition["type"] == "Ready"]
    return "InProgress" if ready and ready[0] != "True" else "Current"
