"""What Jobs and pods tell the planner."""

import copy
from typing import Any

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.cluster.observe import job_state
from ippo_operator.manifests.identity import INPUT_DIGEST
from ippo_trainer.contract.spec import ArtifactRef, Shard, StageResult

from tests.kit.fake_api import Object
from tests.kit.toy_cluster import ended_status, job_condition, pod_of

DIGEST = "sha256:" + "a" * 64
JOB: Object = {
    "metadata": {
        "name": "small-i1-collect-a1",
        "namespace": "team",
        "uid": "job-uid",
        "annotations": {INPUT_DIGEST: DIGEST},
        "ownerReferences": [{"uid": "run-uid", "controller": True}],
        "labels": {},
    },
    "spec": {"completions": 2, "template": {"metadata": {"labels": {}}}},
}


def job(*conditions: Object, **spec: Any) -> Object:
    made = copy.deepcopy(JOB) | {"status": {"conditions": list(conditions)}}
    made["spec"] |= spec
    return made


def failed(**more: str) -> Object:
    return job(job_condition("Failed", **more))


def pod(index: int, status: Object) -> Object:
    return pod_of(JOB, index, status)


def pending(reason: str = "", message: str = "", container: Object | None = None) -> Object:
    scheduled = {"type": "PodScheduled", "status": "False" if reason else "True", "reason": reason, "message": message}
    statuses = [{"name": "stage", "image": "img:1", "state": {"waiting": container}}] if container else []
    return {"phase": "Pending", "conditions": [scheduled], "containerStatuses": statuses}


def test_ownership_is_by_uid_of_the_controller() -> None:
    assert job_state.is_ours(JOB, "run-uid")
    assert not job_state.is_ours(JOB, "other")
    assert not job_state.is_ours({"metadata": {"ownerReferences": [{"uid": "run-uid"}]}}, "run-uid")
    assert not job_state.is_ours({"metadata": {}}, "run-uid")


def test_a_job_that_is_about_to_end_still_runs() -> None:
    for kind in ("SuccessCriteriaMet", "FailureTarget"):
        assert job_state.observe(job(job_condition(kind))).state == "Running"
    assert job_state.observe(job({"type": "Failed", "status": "False"})).state == "Running"


def test_the_pod_that_failed_first_tells_why() -> None:
    pods = [
        pod(0, ended_status(143, "stopped", finished="2026-01-31T12:00:05Z")),
        pod(1, ended_status(65, '{"error": {"reason": "InvalidData", "message": "row 3: no outcome"}}')),
    ]
    seen = job_state.observe(failed(), pods)
    assert (seen.state, seen.failure.exit_code, seen.failure.message) == ("Failed", 65, "row 3: no outcome")
    assert not seen.failure.disrupted


REPLACES: Object = {"rules": [{"action": "FailJob"}, {"action": "Ignore"}]}
EVICTED: Object = {"reason": "Evicted", "conditions": [job_condition("DisruptionTarget", message="no memory left")]}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended_status(137, "", "OOMKilled", "2026-01-31T20:00:00Z"), "limits.memory"),
        (ended_status(65, '{"error": {"message": "row 3"}}', finished="2026-01-31T20:00:00Z"), "row 3"),
        (ended_status(65, '{"error": {"message": "row 3"}}', finished="2026-01-31T20:00:00Z") | EVICTED, "row 3"),
    ],
    ids=["out of memory", "wrong data", "wrong data, disrupted too"],
)
def test_an_evicted_pod_that_was_replaced_does_not_hide_how_its_successor_failed(status: Object, words: str) -> None:
    pods = [pod(0, ended_status(137, "") | EVICTED), pod(1, status)]
    ended = job(job_condition("Failed"), podFailurePolicy=REPLACES)
    seen = job_state.observe(ended, pods)
    assert words in seen.failure.message
    # Its Job tells the other shards to stop.
    stopped = pod(2, ended_status(143, "", finished="2026-01-31T20:00:05Z"))
    assert job_state.observe(ended, [stopped, *pods]).failure == seen.failure


def test_an_evicted_pod_tells_why_where_no_other_failed() -> None:
    ended = job(job_condition("Failed"), podFailurePolicy=REPLACES)
    assert job_state.observe(ended, [pod(0, ended_status(137, "") | EVICTED)]).failure.disrupted


def test_out_of_memory_names_the_remedy() -> None:
    seen = job_state.observe(failed(), [pod(0, ended_status(137, "", reason="OOMKilled"))])
    assert seen.failure.exit_code == 137
    assert "limits.memory" in seen.failure.message


def test_a_log_without_a_message_is_shown_from_its_end() -> None:
    seen = job_state.observe(failed(), [pod(0, ended_status(1, "x" * 2000 + "\nValueError: bug"))])
    assert seen.failure.message.endswith("ValueError: bug")
    assert len(seen.failure.message) < 500


@pytest.mark.parametrize(
    "status",
    [
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "The node was low on resource: memory.",
            "conditions": [job_condition("DisruptionTarget", message="The node was low on resource: memory.")],
        },
        {"phase": "Failed", "conditions": [job_condition("DisruptionTarget", message="preempted")]},
        {"phase": "Failed"},
    ],
    ids=["evicted", "preempted", "lost"],
)
def test_lost_pods_are_disruptions(status: Object) -> None:
    seen = job_state.observe(failed(), [pod(0, status)])
    assert seen.failure.disrupted
    assert seen.failure.exit_code is None


@pytest.mark.parametrize("container", [{}, ended_status(137, "")], ids=["no container told", "killed"])
def test_a_pod_that_outgrew_its_own_disk_is_no_disruption(container: Object) -> None:
    """It would do so again, a hundred times; and nothing that it wrote by then says why."""
    told = {"reason": "Evicted", "message": 'Usage of EmptyDir volume "ippo-work" exceeds the limit "64Mi". '}
    seen = job_state.observe(failed(), [pod(0, {"phase": "Failed"} | container | told)])
    assert not seen.failure.disrupted
    assert seen.failure.exit_code is None
    assert 'exceeds the limit "64Mi". Raise workSize' in seen.failure.message


def beside(name: str, code: int, kind: str = "initContainerStatuses", message: str = "") -> Object:
    """The status of a container that somebody else put into the pod."""
    ended = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
    return {"phase": "Failed", kind: [{"name": name, "state": ended}]}


def test_a_container_that_fails_before_the_stage_is_named() -> None:
    seen = job_state.observe(failed(), [pod(0, beside("vault-agent-init", 2, message="no token"))])
    assert not seen.failure.disrupted
    assert "vault-agent-init, which is not the run's, ended with exit code 2: no token" in seen.failure.message


def test_a_container_that_fails_after_the_stage_is_named() -> None:
    done = ended_status(0, "{}")
    sidecar = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    status = done | {"phase": "Failed", "containerStatuses": [*done["containerStatuses"], sidecar]}
    seen = job_state.observe(failed(), [pod(0, status)])
    assert seen.failure.message.endswith("istio-proxy, which is not the run's, ended with exit code 137: OOMKilled")
    assert not seen.failure.disrupted


def test_a_drained_node_fails_injected_containers_too() -> None:
    status = beside("istio-init", 143) | {"conditions": [job_condition("DisruptionTarget")]}
    assert job_state.observe(failed(), [pod(0, status)]).failure.disrupted


def test_a_deadline_that_passes_while_the_image_is_pulled_is_no_disruption() -> None:
    seen = job_state.observe(failed(), [pod(0, {"phase": "Failed", "reason": "DeadlineExceeded"})])
    assert not seen.failure.disrupted
    assert "activeDeadlineSeconds" in seen.failure.message


def test_a_wrong_spec_is_known_even_if_the_pod_was_disrupted_too() -> None:
    status = ended_status(64, "") | {"conditions": [job_condition("DisruptionTarget")]}
    seen = job_state.observe(failed(), [pod(0, status)])
    assert (seen.failure.exit_code, seen.failure.disrupted) == (64, True)


def test_the_policys_words_stand_in_for_a_pod_that_is_gone() -> None:
    text = "Container stage for pod team/p failed with exit code 65 matching FailJob rule at index 0"
    seen = job_state.observe(failed(reason="PodFailurePolicy", message=text))
    assert (seen.failure.exit_code, seen.failure.disrupted) == (65, False)
    seen = job_state.observe(
        failed(reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
    )
    assert (seen.failure.exit_code, seen.failure.disrupted) == (None, True)


def shard(index: int, **artifacts: ArtifactRef) -> Object:
    """The status of a shard of collect that ended well; the one that joined them all names the artifact."""
    part = Shard(index=index, count=2, complete=bool(artifacts))
    result = StageResult(stage="collect", iteration=1, input_digest=DIGEST, artifacts=artifacts, shard=part)
    return ended_status(0, result.to_message().decode())


def test_a_result_that_went_with_its_pod_is_a_loss_and_not_the_stages_fault() -> None:
    seen = job_state.observe(job(job_condition("Complete")), [pod(0, shard(0))])
    assert (seen.state, seen.failure.disrupted) == ("Failed", True)
    assert "pods of it are gone" in seen.failure.message


def test_the_pod_that_joined_the_shards_is_enough() -> None:
    joined = shard(1, data=ArtifactRef(key="iterations/0001/collect/data", digest=DIGEST))
    seen = job_state.observe(job(job_condition("Complete")), [pod(1, joined)])
    assert (seen.state, [sorted(result.artifacts) for result in seen.results]) == ("Succeeded", [["data"]])


def test_only_readable_results_of_own_pods_count() -> None:
    stranger = pod(1, ended_status(0, "{}"))
    stranger["metadata"]["ownerReferences"][0]["uid"] = "other"
    seen = job_state.observe(
        job(job_condition("Complete"), completions=1), [pod(0, ended_status(0, "rubbish")), stranger]
    )
    assert (seen.state, seen.results) == ("Succeeded", ())


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (pending("Unschedulable", "0/3 nodes: 3 Insufficient nvidia.com/gpu."), Reason.UNSCHEDULABLE, "nvidia.com/gpu"),
        (pending(container={"reason": "ImagePullBackOff", "message": "not found"}), Reason.IMAGE_PULL_FAILED, "img:1"),
        (
            pending(container={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}),
            Reason.POD_NOT_STARTED,
            'secret "s" not found',
        ),
    ],
)
def test_pods_that_wait_say_what_for(status: Object, reason: Reason, words: str) -> None:
    waiting = job_state.observe(job(), [pod(0, {"phase": "Running"}), pod(1, status)]).waiting
    assert waiting is not None
    assert waiting.reason == reason
    assert words in waiting.message


def test_pods_that_start_wait_for_nothing() -> None:
    for status in (pending(), pending(container={"reason": "ContainerCreating"}), {"phase": "Running"}, {}):
        assert job_state.observe(job(), [pod(0, status)]).waiting is None


def test_a_suspended_job_waits_in_its_queue() -> None:
    queued = job(suspend=True)
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    waiting = job_state.observe(queued).waiting
    assert waiting is not None
    assert waiting.reason == Reason.WAITING_FOR_QUOTA
    assert "gpus" in waiting.message


def test_complaints_of_the_job_controller_and_the_kubelet_are_told() -> None:
    waiting = job_state.observe(job(), [], ["old", 'serviceaccount "x" not found']).waiting
    assert waiting is not None
    assert waiting.reason == Reason.POD_REFUSED
    assert 'serviceaccount "x" not found' in waiting.message
    waiting = job_state.observe(job(), [pod(0, pending())], ['MountVolume.SetUp failed: secret "s" not found']).waiting
    assert waiting is not None
    assert waiting.reason == Reason.POD_NOT_STARTED
