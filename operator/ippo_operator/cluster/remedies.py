"""What helps against a refusal, by the words that Kubernetes says no with."""

import re

from ippo_trainer.contract.lines import one_line

from ippo_operator.api.status import MAX_MESSAGE

_ROOM = MAX_MESSAGE - 300
"""Refusals by policies can be long; the remedy after them must not be cut off."""
_NOT_FOUND = r'"[^"]+" not found'
_REMEDIES = (
    (f"serviceaccount {_NOT_FOUND}", "Create it, or correct spec.serviceAccountName."),
    (f"secret {_NOT_FOUND}", "Create it in this namespace, or correct its name in spec.pods."),
    (f"configmap {_NOT_FOUND}", "Create it in this namespace, or correct its name in spec.pods."),
    (f"persistentvolumeclaim {_NOT_FOUND}", "Create it in this namespace, or correct its name in spec.pods."),
    (r"couldn't find key|references non-existent", "Add that key, or correct it in spec.pods."),
    (r"exceeded quota|failed quota", "Raise that ResourceQuota, free some of it, or lower resources of spec.pods."),
    (r"violates PodSecurity", "Let the namespace's Pod Security level allow it, or change spec.pods."),
    (r"priority class|PriorityClass", "Create that PriorityClass, or correct priorityClassName of spec.pods."),
    (r"RuntimeClass|runtimeclass", "Create that RuntimeClass, or correct runtimeClassName of spec.pods."),
    ("calling webhook", "Bring the service behind that webhook back, or have its configuration removed."),
    (
        r"ValidatingAdmissionPolicy|admission webhook",
        "Meet that policy with labels, annotations or resources of spec.pods, or have it changed.",
    ),
    (
        r"[Tt]oo (large|long)",
        "Make the run smaller: take labels and annotations off it, or fields of spec.pods that it can do without.",
    ),
    (r"cannot create resource", "Give that right to the service account that is named here."),
)


def with_remedy(refusal: str) -> str:
    """A refusal on one line, followed by what to do where that is known; at most as long as a message may be."""
    line = one_line(refusal, _ROOM)
    remedy = next((remedy for words, remedy in _REMEDIES if re.search(words, refusal)), "")
    return f"{line.rstrip('.')}. {remedy}" if remedy else line
