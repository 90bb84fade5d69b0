"""The reasons of conditions and failures: what each means, what to do about it, and where it is found.

`ippo explain` prints them, and docs/reasons.md is made from them:
python -m ippo_operator.api.reasons > docs/reasons.md
"""

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Self

from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError, StoppedError, TryAgainError

ConditionType = Literal["Accepted", "Reconciling", "Stalled", "Suspended", "Queued", "Succeeded", "Promoted", "Ready"]
Place = ConditionType | Literal["lastFailure", "serving", "live"]
Recovery = Literal["SpecChange", "OnceMended", "Itself", "Fine"]

RECOVERY: Mapping[Recovery, str] = MappingProxyType(
    {
        "SpecChange": "goes on when you change the spec",
        "OnceMended": "recovers by itself once the cause is mended",
        "Itself": "recovers by itself",
        "Fine": "nothing to recover from",
    }
)

_WORK: tuple[Place, ...] = ("Reconciling", "Succeeded", "Ready")
_END: tuple[Place, ...] = ("Reconciling", "Stalled", "Succeeded", "Ready")
_FAILURE: tuple[Place, ...] = ("lastFailure", *_END)
_ROLLOUT: tuple[Place, ...] = ("serving", "Reconciling", "Stalled", "Ready")
_PODS: tuple[Place, ...] = ("serving", "live", *_WORK)


class Reason(StrEnum):
    """The closed list of reasons of conditions and failures."""

    meaning: str
    """A sentence or two."""
    remedy: str
    """What to do about it. `NAME` stands for the run's name."""
    places: tuple[Place, ...]
    """Where it is found: types of conditions, or status.lastFailure, status.serving or status.live."""
    recovery: Recovery

    # The defaults are for type checkers, which take Reason("TryAgain"), a look-up, for a call of this.
    def __new__(
        cls,
        value: str,
        meaning: str = "",
        remedy: str = "",
        places: tuple[Place, ...] = (),
        recovery: Recovery = "Fine",
    ) -> Self:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning, reason.remedy, reason.places, reason.recovery = meaning, remedy, places, recovery
        return reason

    def remedy_of(self, name: str) -> str:
        """What to do about it in the run of that name."""
        return self.remedy.replace("NAME", name)

    AS_EXPECTED = (
        "AsExpected",
        "Nothing to report: the condition is as it should be.",
        "Nothing to do.",
        ("Accepted", "Stalled", "Suspended", "Queued"),
        "Fine",
    )
    STAGE_RUNNING = (
        "StageRunning",
        "A stage runs, or its Job is being created.",
        "Nothing to do. Watch it with `ippo status NAME -w`, read along with `ippo logs NAME -f`.",
        _WORK,
        "Fine",
    )
    WAITING_TO_RETRY = (
        "WaitingToRetry",
        "The last attempt of the stage failed; the next one starts after the back-off.",
        "Nothing, if the cause passes. What it was is in status.lastFailure and in `ippo logs NAME --previous`; "
        "a cause that stays uses up spec.retries.",
        _WORK,
        "Itself",
    )
    SUSPENDING = (
        "Suspending",
        "spec.suspend is true, and the running stage saves its checkpoint before it ends.",
        "Nothing to do; `ippo resume NAME` takes it back.",
        ("Suspended", *_WORK),
        "Itself",
    )
    SUSPENDED = (
        "Suspended",
        "spec.suspend is true, and nothing runs. A policy that is served stays served.",
        "`ippo resume NAME` goes on from the last checkpoint.",
        ("Suspended", *_WORK),
        "SpecChange",
    )
    COMPLETED = (
        "Completed",
        "All iterations of spec.iterations.max are done.",
        "Nothing to do. `ippo report NAME` shows what came of it; a higher spec.iterations.max goes on.",
        _WORK,
        "Fine",
    )
    STOP_CONDITION_MET = (
        "StopConditionMet",
        "spec.iterations.stopWhen ended the run before spec.iterations.max.",
        "Nothing to do. stopWhen cannot change in a run that started: to go beyond it, start a new run without it.",
        _WORK,
        "Fine",
    )
    NO_DECISION_YET = (
        "NoDecisionYet",
        "No candidate was evaluated so far.",
        "Nothing to do: the first evaluate stage decides.",
        ("Promoted",),
        "Fine",
    )
    WAITING_FOR_CONVERSATIONS = (
        "WaitingForConversations",
        "The next iteration learns from what the gateway logs, and there are fewer conversations or outcomes of the "
        "current policy than spec.collect.logged wants. Nothing runs meanwhile.",
        "Nothing, if customers come: `ippo status NAME` shows how many are there. An outcome that never comes is known "
        "only when outcomeWindow is over; an application that reports also that there is none makes it quicker. "
        "minConversations and minOutcomes may be lowered at any time.",
        _WORK,
        "Itself",
    )
    GATEWAY_UNREACHABLE = (
        "GatewayUnreachable",
        "The run waits for what its gateway counts, and the gateway does not answer, or not as it should.",
        "Look at it: `kubectl describe deployment NAME-gateway`, `kubectl logs deployment/NAME-gateway`, with "
        "journalVolume `statefulset` in their place; on one machine `ippo run` says where its log is.",
        ("live", *_WORK),
        "OnceMended",
    )
    CANARY_RUNNING = (
        "CanaryRunning",
        "The latest candidate is in an A/B test: it gets a share of the conversations, and their outcomes decide.",
        "Nothing to do: `ippo status NAME` shows the counts and the bounds of the lift. `ippo approve NAME` and "
        "`ippo reject NAME` end it by hand.",
        ("Promoted", *_WORK),
        "Itself",
    )
    CANARY_FAILED = (
        "CanaryFailed",
        "The A/B test refused the latest candidate: it has fewer outcomes, or a guard-rail of spec.serve.canary; the "
        "policy before it stays.",
        "Nothing to do for one iteration; its conversations are data for the next one. The message has the figures.",
        ("Promoted",),
        "Fine",
    )
    CANARY_INCONCLUSIVE = (
        "CanaryInconclusive",
        "The A/B test ended without an answer, at maxConversations or maxDuration of spec.serve.canary or because the "
        "candidate's servers did not get ready; the policy before it stays.",
        "Nothing to do for one iteration. More conversations, a larger share or more time let the next test see "
        "smaller lifts: docs/serving.md#the-ab-test says how many it takes.",
        ("Promoted",),
        "Fine",
    )
    PROMOTED = (
        "Promoted",
        "The gate, or the A/B test after it, let the latest candidate pass; it is the current policy.",
        "Nothing to do.",
        ("Promoted",),
        "Fine",
    )
    AWAITING_APPROVAL = (
        "AwaitingApproval",
        "The gate let the latest candidate pass, and a human is asked: by spec.promotion.mode Manual, or because it "
        "was tried on nobody, neither in a simulator nor in an A/B test. Nothing runs meanwhile.",
        "Look at `ippo status NAME` and, without a simulator, judge suggestions with `ippo judge NAME`, then "
        "`ippo approve NAME` or `ippo reject NAME`.",
        ("Promoted", *_WORK),
        "SpecChange",
    )
    NOT_APPROVED = (
        "NotApproved",
        "The gate let the latest candidate pass, but spec.promotion.reject names it, maybe in the midst of an A/B "
        "test; the policy before it stays.",
        "Nothing to do. An answer is final: the next iteration makes another candidate.",
        ("Promoted",),
        "Fine",
    )
    GATE_FAILED = (
        "GateFailed",
        "The gate refused the latest candidate, because it is not better; the policy before it stays.",
        "Nothing to do for one iteration. If it happens again and again, the report's page of the Q-function and "
        "of PPO shows what holds it up: more collect conversations, or gentler PPO, in a new run.",
        ("Promoted",),
        "Fine",
    )
    GATE_INCONCLUSIVE = (
        "GateInconclusive",
        "The evaluation was too noisy for the gate to tell, and spec.evaluate.gate.onInconclusive keeps the "
        "policy before it.",
        "Nothing to do for one iteration. More evaluate conversations make the gate see smaller differences; "
        "that is for a new run.",
        ("Promoted",),
        "Fine",
    )
    INVALID_SPEC = (
        BadSpecError.reason,
        "The spec is wrong in a way that the schema could not catch, or a stage refused its part of it (exit code 64).",
        "Read the message: it names the field. A run that has not started goes on once the spec is corrected "
        "(`ippo validate -f RUN.yaml` finds most of it). A stage that refused its spec is tried again after "
        "`ippo retry NAME`, for what is outside of the spec, such as a bucket; or when spec.pods or the "
        "address in spec.artifacts.s3 changes.",
        ("Accepted", *_FAILURE),
        "SpecChange",
    )
    INVALID_DATA = (
        BadDataError.reason,
        "An input of a stage is wrong (exit code 65): chat logs, a base model, an artifact with another digest, or "
        "a model that needs more memory than there is. Trying again would give the same.",
        "Read the message: it names the file and line, or how much memory is needed and the field that gives it. "
        "More memory in spec.pods has it tried again by itself; after you corrected data, use `ippo retry NAME`.",
        _FAILURE,
        "SpecChange",
    )
    Q_UNINFORMATIVE = (
        "QUninformative",
        "Q tells no more about outcomes than a constant does; optimising it would only follow noise.",
        "Set spec.fitQ.onUninformative to CollectMore, also in a run that stalled: it collects as many "
        "conversations again and fits once more, up to spec.fitQ.maxCollections times. See that "
        "outcomes differ at all and that they depend on what the agent says.",
        _FAILURE,
        "SpecChange",
    )
    TRY_AGAIN = (
        TryAgainError.reason,
        "The world was not ready (exit code 75): a store that is down, credentials that are not valid yet, a "
        "full disk.",
        "Nothing, if it passes: it is tried again with back-off, spec.retries.tryAgain times. Else mend what the "
        "message names.",
        ("lastFailure",),
        "Itself",
    )
    USER_CODE_FAILED = (
        StageError.reason,
        "A stage ended with an unknown exit code: a bug, an exception of an environment's code, out of memory, "
        "or it wrote more than workSize or its ephemeral-storage limit.",
        "`ippo logs NAME --previous` has its last words. It is tried again spec.retries.crashes times. Out of "
        "memory: raise resources.limits.memory of spec.pods, which may change while the run goes on.",
        ("lastFailure",),
        "Itself",
    )
    RESULT_UNREADABLE = (
        "ResultUnreadable",
        "A stage said that it was done, but its result is missing, malformed, or of another stage or other inputs.",
        "It is tried again spec.retries.crashes times. If that does not help, look at spec.pods: an image of "
        "another version, or something that writes to the container's termination message.",
        ("lastFailure",),
        "Itself",
    )
    DISRUPTED = (
        StoppedError.reason,
        "A stage was told to stop or its pod was lost: a drain, preemption, eviction by a node that ran short, or "
        "a node that died.",
        "Nothing to do: it goes on from its checkpoint, from the fourth time on after a back-off. If the message names "
        "a pod that does not end, bring its node back or delete the node. Many of them use up "
        "spec.retries.disruptions; nodes that are not reclaimed, or a priorityClassName in spec.pods, help.",
        ("lastFailure", *_WORK),
        "Itself",
    )
    BUDGET_EXHAUSTED = (
        "BudgetExhausted",
        "A stage failed more often than spec.retries allows.",
        "Mend what status.lastFailure names. A change of spec.pods has the stage tried again by itself; else use "
        "`ippo retry NAME`, or raise the budget that the message names. What is done stays done.",
        _END,
        "SpecChange",
    )
    CHILD_CONFLICT = (
        "ChildConflict",
        "A Job, ConfigMap, Deployment or Service that the run needs exists by that name, and is not this run's.",
        "See whose it is (`kubectl describe`); this run does not touch it. Servers and gateways are made once the name "
        "is free. `ippo retry NAME` goes on with a Job of another name.",
        ("serving", "live", *_FAILURE),
        "SpecChange",
    )
    ARTIFACTS_IN_USE = (
        "ArtifactsInUse",
        "The run was restored with a status whose folder of artifacts is another run's.",
        "Delete the run that is one too many; the other one goes on by itself within a minute. "
        "docs/disaster-recovery.md says how runs are restored.",
        ("Accepted", "Reconciling", "Stalled", "Ready"),
        "Itself",
    )
    WAITING_FOR_QUOTA = (
        "WaitingForQuota",
        "The stage's Job waits in its Kueue queue for quota.",
        "Nothing, if the queue moves. `kubectl describe localqueue` shows what it waits for; a queue of that "
        "name must exist in the run's namespace. spec.queue may change.",
        ("Queued", *_WORK),
        "Itself",
    )
    JOB_PAUSED = (
        "JobPaused",
        "Somebody suspended the stage's Job, or set its parallelism to 0, so it makes no pods. No time limit runs.",
        "Undo it with the command in the message. To stop a run, use spec.suspend.",
        _WORK,
        "Itself",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "No node takes the run's pods: too few GPUs, too little memory, taints, or a node selector without a match.",
        "Add such nodes, free them, or change resources, nodeSelector or tolerations of spec.pods.",
        _PODS,
        "OnceMended",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "The image of the run's pods cannot be pulled.",
        "Correct image or imagePullSecrets of spec.pods, or push the image.",
        _PODS,
        "OnceMended",
    )
    POD_REFUSED = (
        "PodRefused",
        "The API server does not let the run's pods be created: a ResourceQuota, an admission policy, or a "
        "service account that does not exist.",
        "Do what the message says: create the service account, raise the quota, or change spec.pods so that the "
        "policy takes it.",
        _PODS,
        "OnceMended",
    )
    POD_NOT_STARTED = (
        "PodNotStarted",
        "The run's pods have a node but cannot start: a Secret, ConfigMap or volume is missing, or cannot be mounted.",
        "Create what the message names, with the keys that spec.artifacts or spec.pods ask for.",
        _PODS,
        "OnceMended",
    )
    CHILD_REFUSED = (
        "ChildRefused",
        "The API server does not let the operator create or change one of the run's objects: permissions, a "
        "quota, or an admission policy.",
        "Do what the message says; missing permissions come with the operator's chart.",
        ("serving", "live", *_END),
        "OnceMended",
    )
    PENDING_DEADLINE_EXCEEDED = (
        "PendingDeadlineExceeded",
        "The stage's pods waited longer for a node and their image than pendingDeadlineSeconds of spec.pods "
        "allows. Time in a Kueue queue does not count.",
        "It is tried again spec.retries.tryAgain times. Make room, mend the image, or raise pendingDeadlineSeconds.",
        ("lastFailure", *_WORK),
        "Itself",
    )
    ROLLING_OUT = (
        "RollingOut",
        "All iterations are done, and the servers of the promoted policy are not ready yet.",
        "Nothing to do: it ends with a ready server, or after spec.serve.progressDeadlineSeconds.",
        _WORK,
        "Itself",
    )
    ROLLED_BACK = (
        "RolledBack",
        "The promoted policy's servers did not get ready in time; the policy before it is served again.",
        "Look why they did not start (`kubectl describe deployment NAME`, and its pods). A change of spec.serve or "
        "spec.pods.serve is a new try, and so is `ippo retry NAME`, for what is outside of the spec, such as a "
        "quota; the next promotion is one too.",
        _ROLLOUT,
        "SpecChange",
    )
    ROLLOUT_TIMED_OUT = (
        "RolloutTimedOut",
        "The servers did not get ready in time, and there is nothing to go back to, or spec.serve.onFailure is "
        "Hold; or those of the policy before are gone too.",
        "The servers are left as they are, for a look: `kubectl describe deployment NAME`. They are taken as "
        "soon as they get ready; a change of spec.serve or spec.pods.serve, or `ippo retry NAME`, is a new try.",
        _ROLLOUT,
        "OnceMended",
    )
    SERVER_FAILED = (
        "ServerFailed",
        "A server ends again and again, or cannot fetch its policy from the bucket.",
        "Look at the log of its pod (`kubectl logs deployment/NAME`, with `-c` also of the container that "
        "fetches). Often it is memory, a GPU that is too small, or credentials.",
        _PODS,
        "OnceMended",
    )
    NOT_REACHED = (
        "NotReached",
        "Servers are available, but the run's Service has no endpoint, so requests reach none of them.",
        "Look at `kubectl describe service NAME` and `kubectl get endpointslices -l "
        "kubernetes.io/service-name=NAME`: its selector and ports are put back by the operator; endpoints are "
        "made by the cluster's EndpointSlice controller.",
        _PODS,
        "OnceMended",
    )
    NO_SERVER_IMAGE = (
        "NoServerImage",
        "spec.serve.engine is VLLM, and neither spec.pods.serve.image nor the operator names an image with it.",
        "Set spec.pods.serve.image or the chart's serveImage; or set spec.serve.engine to Transformers, which "
        "needs no image of its own.",
        _ROLLOUT,
        "OnceMended",
    )


_HEAD = """\
# Reasons: what they mean, what to do

<!-- Generated by `make docs` from api/reasons.py; not to be edited. -->

Conditions of a run, `status.lastFailure`, `status.serving` and `status.live` give a reason from this closed list. The
message beside it names the object or field. `ippo explain REASON` prints a row, `ippo explain NAME` those of a run in a
cluster.

"""


def to_markdown() -> str:
    """The file docs/reasons.md: failures and waits first, by what it takes to recover from them."""
    return _HEAD + "\n".join("".join(_section(recovery)) for recovery in RECOVERY)


def _section(recovery: Recovery) -> Iterator[str]:
    title = RECOVERY[recovery]
    yield f"## {title[0].upper()}{title[1:]}\n\n| reason | meaning | what to do | where |\n| --- | --- | --- | --- |\n"
    for reason in Reason:
        if reason.recovery == recovery:
            yield f"| `{reason}` | {reason.meaning} | {reason.remedy} | {', '.join(reason.places)} |\n"


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
