"""What every reason of a condition or failure means, and what to do about it.

`ippo explain` prints it, and docs/reasons.md is made from it:
python -m ippo_operator.api.reasons > docs/reasons.md
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ippo_operator.api.status import ConditionType, Reason

Place = ConditionType | Literal["lastFailure", "serving"]
Recovery = Literal["Fine", "Itself", "OnceMended", "SpecChange", "NewRun"]

RECOVERY: Mapping[Recovery, str] = MappingProxyType(
    {
        "Fine": "nothing to recover from",
        "Itself": "recovers by itself",
        "OnceMended": "recovers by itself once the cause is mended",
        "SpecChange": "goes on when you change the spec",
        "NewRun": "this run never goes on; start a new one",
    }
)


@dataclass(frozen=True)
class Explanation:
    """A reason in words. `NAME` in a remedy stands for the run's name."""

    meaning: str
    remedy: str
    conditions: tuple[Place, ...]
    """Where it is found: types of conditions, or status.lastFailure, or status.serving."""
    recovery: Recovery


_WORK: tuple[Place, ...] = ("Reconciling", "Succeeded", "Ready")
_END: tuple[Place, ...] = ("Reconciling", "Stalled", "Succeeded", "Ready")
_FAILURE: tuple[Place, ...] = ("lastFailure", *_END)
_ROLLOUT: tuple[Place, ...] = ("serving", "Stalled", "Ready")

EXPLANATIONS: Mapping[Reason, Explanation] = MappingProxyType(
    {
        Reason.AS_EXPECTED: Explanation(
            "Nothing to report: the condition is as it should be.",
            "Nothing to do.",
            ("Accepted", "Stalled", "Suspended", "Queued"),
            "Fine",
        ),
        Reason.STAGE_RUNNING: Explanation(
            "A stage runs, or its Job is being created.",
            "Nothing to do. Watch it with `ippo status NAME -w`, read along with `ippo logs NAME -f`.",
            _WORK,
            "Fine",
        ),
        Reason.WAITING_TO_RETRY: Explanation(
            "The last attempt of the stage failed; the next one starts after the back-off.",
            "Nothing, if the cause passes. What it was is in status.lastFailure and in `ippo logs NAME --previous`; "
            "a cause that stays uses up spec.retries.",
            _WORK,
            "Itself",
        ),
        Reason.SUSPENDING: Explanation(
            "spec.suspend is true, and the running stage saves its checkpoint before it ends.",
            "Nothing to do; `ippo resume NAME` takes it back.",
            ("Suspended", *_WORK),
            "Itself",
        ),
        Reason.SUSPENDED: Explanation(
            "spec.suspend is true, and nothing runs. A policy that is served stays served.",
            "`ippo resume NAME` goes on from the last checkpoint.",
            ("Suspended", *_WORK),
            "SpecChange",
        ),
        Reason.COMPLETED: Explanation(
            "All iterations of spec.iterations.max are done.",
            "Nothing to do. `ippo report NAME` shows what came of it; a higher spec.iterations.max goes on.",
            _WORK,
            "Fine",
        ),
        Reason.STOP_CONDITION_MET: Explanation(
            "spec.iterations.stopWhen ended the run before spec.iterations.max.",
            "Nothing to do. stopWhen cannot change in a run that started: to go beyond it, start a new run without it.",
            _WORK,
            "Fine",
        ),
        Reason.NO_DECISION_YET: Explanation(
            "No candidate was evaluated so far.",
            "Nothing to do: the first evaluate stage decides.",
            ("Promoted",),
            "Fine",
        ),
        Reason.PROMOTED: Explanation(
            "The gate let the latest candidate pass; it is the current policy.",
            "Nothing to do.",
            ("Promoted",),
            "Fine",
        ),
        Reason.AWAITING_APPROVAL: Explanation(
            "The gate let the latest candidate pass, and spec.promotion.mode Manual asks a human. Nothing runs "
            "meanwhile.",
            "Look at `ippo status NAME`, then `ippo approve NAME` or `ippo reject NAME`.",
            ("Promoted", *_WORK),
            "SpecChange",
        ),
        Reason.NOT_APPROVED: Explanation(
            "The gate let the latest candidate pass, but spec.promotion.reject names it; the policy before it stays.",
            "Nothing to do. An answer is final: the next iteration makes another candidate.",
            ("Promoted",),
            "Fine",
        ),
        Reason.GATE_FAILED: Explanation(
            "The gate refused the latest candidate, because it is not better; the policy before it stays.",
            "Nothing to do for one iteration. If it happens again and again, the report's page of the Q-function and "
            "of PPO shows what holds it up: more collect conversations, or gentler PPO, in a new run.",
            ("Promoted",),
            "Fine",
        ),
        Reason.GATE_INCONCLUSIVE: Explanation(
            "The evaluation was too noisy for the gate to tell, and spec.evaluate.gate.onInconclusive keeps the "
            "policy before it.",
            "Nothing to do for one iteration. More evaluate conversations make the gate see smaller differences; "
            "that is for a new run.",
            ("Promoted",),
            "Fine",
        ),
        Reason.INVALID_SPEC: Explanation(
            "The spec is wrong in a way that the schema could not catch, or a stage refused its part of it (exit "
            "code 64).",
            "Read the message: it names the field. A run that has not started goes on once the spec is corrected "
            "(`ippo validate -f RUN.yaml` finds most of it). A stage that refused its spec is tried again after "
            "`ippo retry NAME`, for what is outside of the spec, such as a bucket; or when spec.pods or the "
            "address in spec.artifacts.s3 changes.",
            ("Accepted", *_FAILURE),
            "SpecChange",
        ),
        Reason.INVALID_DATA: Explanation(
            "An input of a stage is wrong (exit code 65): chat logs, a base model, an artifact with another digest, or "
            "a model that needs more memory than there is. Trying again would give the same.",
            "Read the message: it names the file and line, or how much memory is needed and the field that gives it. "
            "More memory in spec.pods has it tried again by itself; after you corrected data, use `ippo retry NAME`.",
            _FAILURE,
            "SpecChange",
        ),
        Reason.Q_UNINFORMATIVE: Explanation(
            "Q tells no more about outcomes than a constant does; optimising it would only follow noise.",
            "Set spec.fitQ.onUninformative to CollectMore, also in a run that stalled: it collects as many "
            "conversations again and fits once more, up to spec.fitQ.maxCollections times. See that "
            "outcomes differ at all and that they depend on what the agent says.",
            _FAILURE,
            "SpecChange",
        ),
        Reason.TRY_AGAIN: Explanation(
            "The world was not ready (exit code 75): a store that is down, credentials that are not valid yet, a "
            "full disk.",
            "Nothing, if it passes: it is tried again with back-off, spec.retries.tryAgain times. Else mend what the "
            "message names.",
            ("lastFailure",),
            "Itself",
        ),
        Reason.USER_CODE_FAILED: Explanation(
            "A stage ended with an unknown exit code: a bug, an exception of an environment's code, out of memory, "
            "or it wrote more than workSize or its ephemeral-storage limit.",
            "`ippo logs NAME --previous` has its last words. It is tried again spec.retries.crashes times. Out of "
            "memory: raise resources.limits.memory of spec.pods, which may change while the run goes on.",
            ("lastFailure",),
            "Itself",
        ),
        Reason.RESULT_UNREADABLE: Explanation(
            "A stage said that it was done, but its result is missing, malformed, or of another stage or other inputs.",
            "It is tried again spec.retries.crashes times. If that does not help, look at spec.pods: an image of "
            "another version, or something that writes to the container's termination message.",
            ("lastFailure",),
            "Itself",
        ),
        Reason.DISRUPTED: Explanation(
            "A stage was told to stop or its pod was lost: a drain, preemption, eviction by a node that ran short, or "
            "a node that died.",
            "Nothing to do: it goes on from its checkpoint at once. If the message names a pod that does not end, "
            "bring its node back or delete the node. Many of them use up spec.retries.disruptions; nodes that are not "
            "reclaimed, or a priorityClassName in spec.pods, help.",
            ("lastFailure", *_WORK),
            "Itself",
        ),
        Reason.BUDGET_EXHAUSTED: Explanation(
            "A stage failed more often than spec.retries allows.",
            "Mend what status.lastFailure names. A change of spec.pods has the stage tried again by itself; else use "
            "`ippo retry NAME`, or raise the budget that the message names. What is done stays done.",
            _END,
            "SpecChange",
        ),
        Reason.CHILD_CONFLICT: Explanation(
            "An object with the name of one of the run's Jobs or ConfigMaps exists, and is not this run's.",
            "See whose it is (`kubectl describe`); this run does not touch it. `ippo retry NAME` goes on with a Job of "
            "another name.",
            ("serving", *_FAILURE),
            "SpecChange",
        ),
        Reason.ARTIFACTS_IN_USE: Explanation(
            "The run was restored with a status whose folder of artifacts is another run's.",
            "Delete the run that is one too many; the other one goes on by itself within a minute. "
            "docs/disaster-recovery.md says how runs are restored.",
            ("Accepted", "Reconciling", "Stalled", "Ready"),
            "Itself",
        ),
        Reason.WAITING_FOR_QUOTA: Explanation(
            "The stage's Job waits in its Kueue queue for quota.",
            "Nothing, if the queue moves. `kubectl describe localqueue` shows what it waits for; a queue of that "
            "name must exist in the run's namespace. spec.queue may change.",
            ("Queued", *_WORK),
            "Itself",
        ),
        Reason.JOB_PAUSED: Explanation(
            "Somebody suspended the stage's Job, or set its parallelism to 0, so it makes no pods. No time limit runs.",
            "Undo it with the command in the message. To stop a run, use spec.suspend.",
            _WORK,
            "Itself",
        ),
        Reason.UNSCHEDULABLE: Explanation(
            "No node takes the stage's pods: too few GPUs, too little memory, taints, or a node selector without a "
            "match.",
            "Add such nodes, free them, or change resources, nodeSelector or tolerations of spec.pods.",
            _WORK,
            "OnceMended",
        ),
        Reason.IMAGE_PULL_FAILED: Explanation(
            "The image of the stage's pods cannot be pulled.",
            "Correct image or imagePullSecrets of spec.pods, or push the image.",
            ("serving", *_WORK),
            "OnceMended",
        ),
        Reason.POD_REFUSED: Explanation(
            "The API server does not let the stage's pods be created: a ResourceQuota, an admission policy, or a "
            "service account that does not exist.",
            "Do what the message says: create the service account, raise the quota, or change spec.pods so that the "
            "policy takes it.",
            ("serving", *_WORK),
            "OnceMended",
        ),
        Reason.POD_NOT_STARTED: Explanation(
            "The stage's pods have a node but cannot start: a Secret, ConfigMap or volume is missing, or cannot be "
            "mounted.",
            "Create what the message names, with the keys that spec.artifacts or spec.pods ask for.",
            ("serving", *_WORK),
            "OnceMended",
        ),
        Reason.CHILD_REFUSED: Explanation(
            "The API server does not let the operator create or change one of the run's objects: permissions, a "
            "quota, or an admission policy.",
            "Do what the message says; missing permissions come with the operator's chart.",
            ("serving", *_WORK),
            "OnceMended",
        ),
        Reason.PENDING_DEADLINE_EXCEEDED: Explanation(
            "The stage's pods waited longer for a node and their image than pendingDeadlineSeconds of spec.pods "
            "allows. Time in a Kueue queue does not count.",
            "It is tried again spec.retries.tryAgain times. Make room, mend the image, or raise "
            "pendingDeadlineSeconds.",
            ("lastFailure", *_WORK),
            "Itself",
        ),
        Reason.ROLLING_OUT: Explanation(
            "All iterations are done, and the servers of the promoted policy are not ready yet.",
            "Nothing to do: it ends with a ready server, or after spec.serve.progressDeadlineSeconds.",
            _WORK,
            "Itself",
        ),
        Reason.ROLLED_BACK: Explanation(
            "The promoted policy's servers did not get ready in time; the policy before it is served again.",
            "Look why they did not start (`kubectl describe deployment NAME`, and its pods). A change of spec.serve or "
            "spec.pods.serve is a new try, and so is `ippo retry NAME`, for what is outside of the spec, such as a "
            "quota; the next promotion is one too.",
            _ROLLOUT,
            "SpecChange",
        ),
        Reason.ROLLOUT_TIMED_OUT: Explanation(
            "The servers did not get ready in time, and there is nothing to go back to, or spec.serve.onFailure is "
            "Hold; or those of the policy before are gone too.",
            "The servers are left as they are, for a look: `kubectl describe deployment NAME`. They are taken as "
            "soon as they get ready; a change of spec.serve or spec.pods.serve, or `ippo retry NAME`, is a new try.",
            _ROLLOUT,
            "OnceMended",
        ),
        Reason.SERVER_FAILED: Explanation(
            "A server ends again and again, or cannot fetch its policy from the bucket.",
            "Look at the log of its pod (`kubectl logs deployment/NAME`, with `-c` also of the container that "
            "fetches). Often it is memory, a GPU that is too small, or credentials.",
            ("serving",),
            "OnceMended",
        ),
        Reason.NOT_REACHED: Explanation(
            "Servers are available, but the run's Service has no endpoint, so requests reach none of them.",
            "Look at `kubectl describe service NAME` and `kubectl get endpointslices -l "
            "kubernetes.io/service-name=NAME`: its selector and ports are put back by the operator; endpoints are "
            "made by the cluster's EndpointSlice controller.",
            ("serving",),
            "OnceMended",
        ),
        Reason.NO_SERVER_IMAGE: Explanation(
            "spec.serve.engine is VLLM, and neither spec.pods.serve.image nor the operator names an image with it.",
            "Set spec.pods.serve.image or the chart's serveImage; or set spec.serve.engine to Transformers, which "
            "needs no image of its own.",
            _ROLLOUT,
            "OnceMended",
        ),
    }
)

_HEAD = """\
# Reasons: what they mean, what to do

<!-- Generated by `make docs` from api/reasons.py; not to be edited. -->

Conditions of a run, `status.lastFailure` and `status.serving` give a reason from this closed list. The message beside
it names the object or field. `ippo explain REASON` prints a row, `ippo explain NAME` those of a run in a cluster.

"""


def to_markdown() -> str:
    """The file docs/reasons.md: failures and waits first, by what it takes to recover from them."""
    order: tuple[Recovery, ...] = ("NewRun", "SpecChange", "OnceMended", "Itself", "Fine")
    return _HEAD + "\n".join("".join(_section(recovery)) for recovery in order)


def _section(recovery: Recovery) -> Iterator[str]:
    title = RECOVERY[recovery]
    yield f"## {title[0].upper()}{title[1:]}\n\n| reason | meaning | what to do | where |\n| --- | --- | --- | --- |\n"
    for reason, told in EXPLANATIONS.items():
        if told.recovery == recovery:
            yield f"| `{reason}` | {told.meaning} | {told.remedy} | {', '.join(told.conditions)} |\n"


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
