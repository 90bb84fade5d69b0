"""A refusal in Kubernetes' words is followed by what to do about it, on one line that fits a condition."""

import pytest
from ippo_operator.api.status import MAX_MESSAGE
from ippo_operator.cluster.remedies import with_remedy


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ('pods "a-" is forbidden: serviceaccount "x" not found', "spec.serviceAccountName"),
        ('MountVolume.SetUp failed for volume "v" : secret "keys" not found', "Create it in this namespace"),
        ('configmap "c" not found', "Create it in this namespace"),
        ('persistentvolumeclaim "c" not found', "Create it in this namespace"),
        ("couldn't find key token in Secret team/hub", "Add that key"),
        ("exceeded quota: q, requested: pods=1, used: pods=9, limited: pods=9", "Raise that ResourceQuota"),
        ("failed quota: q: must specify limits.cpu for: stage", "resources of spec.pods"),
        ('violates PodSecurity "restricted:latest": seccompProfile', "Pod Security level"),
        ('no PriorityClass with name "high" was found', "priorityClassName"),
        ('failed calling webhook "w.example": no endpoints', "Bring the service"),
        ('admission webhook "policy.example" denied the request: no', "Meet that policy"),
        ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "Meet that policy"),
        ('User "system:serviceaccount:a:b" cannot create resource "jobs"', "Give that right"),
    ],
)
def test_what_is_known_has_a_remedy(told: str, remedy: str) -> None:
    said = with_remedy(told)
    assert said.startswith(told.rstrip("."))
    assert remedy in said
    assert said.endswith(".")


def test_what_is_not_known_is_told_as_it_is() -> None:
    assert with_remedy("something\n  odd") == "something odd"


def test_a_long_refusal_leaves_room_for_its_remedy() -> None:
    said = with_remedy("exceeded quota: " + "x" * 5000)
    assert len(said) <= MAX_MESSAGE - 150
    assert said.endswith("or lower resources of spec.pods.")
