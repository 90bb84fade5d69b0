"""A stand-in for the StatefulSet controller on the fake API, for gateways whose journals are on volumes, and for the
Jobs that empty volumes. It knows on which volumes events are, and sees when one goes that has some."""

from dataclasses import dataclass, field
from typing import Any

from ippo_operator.manifests.gateway import JOURNAL
from ippo_operator.manifests.identity import COMPONENT
from ippo_operator.manifests.left_journals import LEFT_JOURNAL

from tests.kit.fake_api import FakeApi, Object, copied

CLAIMS = "persistentvolumeclaims"
_EVENTS = "toy/events"
"""Annotation of a claim: there are events on the volume."""


@dataclass
class ToyVolumes:
    """Volumes of gateways.

    Args:
        api: where the objects are.
        ran: takes the names of Jobs that ended.
        bucket: whether the bucket answers: what is on volumes goes there.
        binds: whether claims get volumes: pods start.
    """

    api: FakeApi
    ran: list[str]
    bucket: bool = True
    binds: bool = True
    lost: list[str] = field(default_factory=list)
    """Claims that went with events on them, or under a pod, while their run was there."""

    def __post_init__(self) -> None:
        told = self.api.on_change

        def on_change(event: str, item: Object) -> None:
            if event == "DELETED" and item["metadata"]["name"].startswith(JOURNAL):
                self._gone(item)
            told(event, item)

        self.api.on_change = on_change

    def _gone(self, claim: Object) -> None:
        run = claim["metadata"]["ownerReferences"][0]["uid"]
        used = any(claim_of(pod) == claim["metadata"]["name"] for pod in self.api.all("pods"))
        if any(item["metadata"]["uid"] == run for item in self.api.all("iterativepporuns")) and (
            used or _EVENTS in (claim["metadata"].get("annotations") or {})
        ):
            self.lost.append(claim["metadata"]["name"])

    def step(self) -> bool:
        """Whether anything changed."""
        puts = [job for job in self.api.all("jobs") if is_put(job)]
        changed = [*map(self._look_at_set, self.api.all("statefulsets")), *map(self._look_at_put, puts)]
        return any([*changed, *map(self._let_go, self.api.all(CLAIMS))])

    def _let_go(self, claim: Object) -> bool:
        """A claim that is being deleted goes once no pod has it."""
        metadata, templates = (
            claim["metadata"],
            [job["spec"]["template"] for job in self.api.all("jobs") if is_put(job)],
        )
        used = any(claim_of(pod) == metadata["name"] for pod in [*self.api.all("pods"), *templates])
        if used or "deletionTimestamp" not in metadata:
            return False
        self.api.remove(CLAIMS, metadata["namespace"], metadata["name"])
        return True

    def _look_at_put(self, job: Object) -> bool:
        """The Job of a volume that no gateway has."""
        metadata, [volume] = job["metadata"], [v for v in volumes_of(job["spec"]["template"]) if v["name"] == JOURNAL]
        if "deletionTimestamp" in metadata:
            self.api.remove("jobs", metadata["namespace"], metadata["name"])
            return True
        if not self.bucket or (job.get("status") or {}).get("conditions"):
            return False
        self.ran.append(metadata["name"])
        self._note(metadata["namespace"], volume["persistentVolumeClaim"]["claimName"], events=False)
        done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}
        self.api.edit("jobs", metadata["namespace"], metadata["name"], status={"conditions": [done]})
        return True

    def _look_at_set(self, there: Object) -> bool:
        metadata, replicas = there["metadata"], there["spec"].get("replicas", 1)
        place, changed = metadata["namespace"], False
        for pod in self._pods(there):
            if int(pod["metadata"]["name"].rpartition("-")[2]) >= replicas:
                changed = True
                self._note(place, str(claim_of(pod)), events=not self.bucket)
                self.api.remove("pods", place, pod["metadata"]["name"])
        for number in range(replicas):
            changed = self._start(there, number) or changed
        available = len(self._pods(there)) if self.binds else 0
        seen: Any = metadata["generation"]
        status = {"observedGeneration": seen, "replicas": replicas, "updatedReplicas": replicas}
        status["availableReplicas"] = available
        if there.get("status") != status:
            self.api.edit("statefulsets", place, metadata["name"], status=status)
            changed = True
        return changed

    def _start(self, there: Object, number: int) -> bool:
        """A pod and its claim, where they are not there."""
        place, name = there["metadata"]["namespace"], f"{there['metadata']['name']}-{number}"
        changed = False
        for template in there["spec"]["volumeClaimTemplates"]:
            claim = copied(template)
            claim["metadata"] |= {"name": f"{template['metadata']['name']}-{name}", "namespace": place}
            claim["metadata"]["finalizers"] = ["kubernetes.io/pvc-protection"]
            if (CLAIMS, place, claim["metadata"]["name"]) not in self.api.objects:
                self.api.put(CLAIMS, claim)
                changed = True
        if ("pods", place, name) not in self.api.objects:
            self.api.put("pods", self._pod(there, name))
            changed = True
        if self.binds:
            self._note(place, f"{JOURNAL}-{name}", events=True)
        return changed

    def _pod(self, there: Object, name: str) -> Object:
        template = copied(there["spec"]["template"])
        volume = {"name": JOURNAL, "persistentVolumeClaim": {"claimName": f"{JOURNAL}-{name}"}}
        owner = {"kind": "StatefulSet", "name": there["metadata"]["name"], "uid": there["metadata"]["uid"]}
        about = {"name": name, "namespace": there["metadata"]["namespace"], "labels": template["metadata"]["labels"]}
        unbound = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        unbound["message"] = "pod has unbound immediate PersistentVolumeClaims"
        status = {"phase": "Running"} if self.binds else {"phase": "Pending", "conditions": [unbound]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": about | {"ownerReferences": [owner | {"controller": True}]},
            "spec": template["spec"] | {"volumes": [*template["spec"]["volumes"], volume]},
            "status": status,
        }

    def _pods(self, there: Object) -> list[Object]:
        uid = there["metadata"]["uid"]
        return [p for p in self.api.all("pods") if p["metadata"].get("ownerReferences", [{}])[0].get("uid") == uid]

    def _note(self, place: str, claim: str, events: bool) -> None:
        """That there are events on a volume, or none any more."""
        item = self.api.objects.get((CLAIMS, place, claim))
        if item is not None:
            item["metadata"]["annotations"] = {_EVENTS: "some"} if events else {}


def is_put(job: Object) -> bool:
    """Whether a Job is there to empty a volume."""
    return (job["metadata"].get("labels") or {}).get(COMPONENT) == LEFT_JOURNAL


def volumes_of(template: Object) -> list[Object]:
    """Of a pod, or of its template."""
    return list(template.get("spec", {}).get("volumes") or ())


def claim_of(pod: Object) -> str | None:
    """That a gateway's pod has."""
    names = [v["persistentVolumeClaim"]["claimName"] for v in volumes_of(pod) if "persistentVolumeClaim" in v]
    return names[0] if names else None
