"""The Job and ConfigMap of an attempt."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_operator.manifests import identity
from ippo_operator.manifests.jobs import stage_config_map, stage_job, stage_service
from ippo_operator.manifests.overrides import for_stage
from ippo_operator.manifests.platform import Platform
from ippo_operator.plan.names import job_name
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageSpec

from tests.kit.cluster_objects import PLATFORM, RICH, cluster_run, intent


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def container(job: dict[str, Any]) -> dict[str, Any]:
    [only] = pod(job)["containers"]
    return only


def variables(job: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(job)["env"]}


def test_the_spec_is_frozen_and_reads_back() -> None:
    run = cluster_run()
    wanted = intent(run)
    config_map = stage_config_map(run, wanted)
    assert config_map["immutable"] is True
    assert StageSpec.model_validate_json(config_map["data"]["spec.json"]) == wanted.spec
    assert config_map["metadata"]["annotations"][identity.INPUT_DIGEST] == wanted.spec.input_digest()
    job = stage_job(run, wanted, PLATFORM)
    assert job["metadata"]["name"] == config_map["metadata"]["name"] == wanted.name
    assert pod(job)["volumes"][-1] == {"name": "ippo-spec", "configMap": {"name": wanted.name}}


def test_children_are_owned_by_uid_and_labelled() -> None:
    run = cluster_run()
    wanted = intent(run, attempt=4)
    job = stage_job(run, wanted, PLATFORM)
    for made in (job, stage_config_map(run, wanted)):
        [owner] = made["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["kind"], owner["controller"]) == (run.metadata.uid, "IterativePPORun", True)
        assert made["metadata"]["namespace"] == "default"
    labels = job["metadata"]["labels"]
    assert labels[identity.RUN_UID] == run.metadata.uid
    assert (labels[identity.ITERATION], labels[identity.STAGE], labels[identity.ATTEMPT]) == ("2", "improve", "4")
    assert wanted.spec.input_digest().startswith(f"sha256:{labels[identity.SPEC_DIGEST]}")
    assert labels.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_a_run_that_no_server_knows_has_no_children() -> None:
    run = cluster_run()
    local = run.model_copy(update={"metadata": run.metadata.model_copy(update={"namespace": None})})
    with pytest.raises(ValueError, match="no namespace"):
        stage_job(local, intent(run), PLATFORM)


def test_one_pod_or_one_for_each_shard() -> None:
    run = cluster_run()
    one = stage_job(run, intent(run), PLATFORM)["spec"]
    assert (one["completionMode"], one["parallelism"], one["completions"]) == ("NonIndexed", 1, 1)
    many = stage_job(run, intent(run, "collect", shards=3), PLATFORM)["spec"]
    assert (many["completionMode"], many["parallelism"], many["completions"]) == ("Indexed", 3, 3)


def test_who_retries_what() -> None:
    spec = stage_job(cluster_run(), intent(cluster_run()), PLATFORM)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    wrong, disrupted = spec["podFailurePolicy"]["rules"]
    assert (wrong["action"], wrong["onExitCodes"]["values"]) == ("FailJob", [64, 65])
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_pods_that_train_together_meet_at_pod_0_and_end_together() -> None:
    run = cluster_run(pods={"improve": {"nodes": 3}})
    wanted = intent(run)
    job, service = stage_job(run, wanted, PLATFORM), stage_service(run, wanted)
    assert service is not None
    spec = job["spec"]
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", 3, 3)
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob"], "no pod is replaced alone"
    assert service["metadata"] == job["metadata"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod(job)["subdomain"] == wanted.name
    assert container(job)["command"] == [
        *("python", "-m", "ippo_trainer.stages.improve_ranks", "--processes", "1"),
        *("--nodes", "3", "--master", f"{wanted.name}-0.{wanted.name}", "--port", "29500"),
        *("--spec", "/ippo/spec/spec.json", "--work-dir", "/ippo/work"),
        *("--termination-log", "/dev/termination-log"),
    ]
    assert "ippo-shm" not in {volume["name"] for volume in pod(job)["volumes"]}


def test_a_pod_has_a_process_for_each_gpu() -> None:
    run = cluster_run(pods={"improve": {"resources": {"limits": {"nvidia.com/gpu": 4}}}})
    job = stage_job(run, intent(run), PLATFORM)
    assert stage_service(run, intent(run)) is None
    assert job["spec"]["completionMode"] == "NonIndexed"
    assert [rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore"]
    assert container(job)["command"][:6] == [
        *("python", "-m", "ippo_trainer.stages.improve_ranks", "--processes", "4", "--spec"),
    ]
    assert {"name": "ippo-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod(job)["volumes"]
    one = cluster_run(pods={"common": {"resources": {"limits": {"nvidia.com/gpu": 1}}}})
    assert container(stage_job(one, intent(one), PLATFORM))["command"][0] == "ippo-stage"


def test_empty_values_of_labels_and_variables_stay() -> None:
    """A selector without its label would select every pod of the namespace."""
    term = {"labelSelector": {"matchLabels": {"exclusive": ""}}, "topologyKey": "kubernetes.io/hostname"}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    common = {
        "affinity": {"podAffinity": required, "podAntiAffinity": required},
        "nodeSelector": {"gpu": ""},
        "tolerations": [{"key": "gpu", "value": ""}],
        "env": [{"name": "EMPTY", "value": ""}],
        "volumes": [{"name": "cache", "mountPath": "/cache", "emptyDir": {}}],
    }
    run = cluster_run(pods={"common": common})
    made = stage_job(run, intent(run), PLATFORM)
    spec = pod(made)
    assert spec["affinity"] == {"podAffinity": required, "podAntiAffinity": required}
    assert spec["nodeSelector"] == {"gpu": ""}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": ""}]
    assert variables(made)["EMPTY"] == ""
    assert {"name": "user-cache", "emptyDir": {}} in spec["volumes"], "what was not given is left to Kubernetes"


def test_gang_schedulers_and_autoscalers_find_what_they_read_and_the_operators_keys_stay() -> None:
    labels = {"scheduling.x-k8s.io/pod-group": "g", "app.kubernetes.io/name": "mine", "app.kubernetes.io/part-of": "p"}
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "scheduling.k8s.io/group-name": "g"}
    run = cluster_run(
        pods={
            "common": {"labels": labels, "annotations": annotations, "schedulerName": "volcano"},
            "collect": {"schedulerName": "yunikorn"},
        }
    )
    job = stage_job(run, intent(run), PLATFORM)
    found = job["spec"]["template"]["metadata"]
    assert labels.items() <= found["labels"].items()
    assert annotations.items() <= found["annotations"].items()
    assert found["labels"][identity.RUN_UID] == run.metadata.uid
    assert found["labels"][identity.COMPONENT] == "stage"
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] == "iterative-ppo"
    assert pod(job)["schedulerName"] == "volcano"
    assert for_stage(run.spec.pods, "collect").scheduler_name == "yunikorn"


def test_only_improve_is_divided() -> None:
    pods = {"improve": {"nodes": 3}, "common": {"resources": {"limits": {"nvidia.com/gpu": 4}}}}
    run = cluster_run(pods=pods)
    wanted = intent(run, "fit-q")
    job = stage_job(run, wanted, PLATFORM)
    assert stage_service(run, wanted) is None
    assert container(job)["command"][:2] == ["ippo-stage", "fit-q"]
    assert "subdomain" not in pod(job)
    assert intent(run).spec.input_digest() == intent(cluster_run()).spec.input_digest()


def test_deadlines_are_the_pods_so_that_no_queue_counts() -> None:
    run = cluster_run(pods=RICH)
    job = stage_job(run, intent(run), PLATFORM)
    assert "activeDeadlineSeconds" not in job["spec"]
    assert pod(job)["activeDeadlineSeconds"] == 3600
    assert pod(job)["terminationGracePeriodSeconds"] == 300
    plain = pod(stage_job(cluster_run(), intent(cluster_run()), PLATFORM))
    assert "activeDeadlineSeconds" not in plain
    assert plain["terminationGracePeriodSeconds"] == 60


def test_a_queued_job_waits_suspended() -> None:
    run = cluster_run(queue={"localQueueName": "team-a", "priorityClassName": "high"})
    job = stage_job(run, intent(run), PLATFORM)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][identity.QUEUE_NAME] == "team-a"
    assert job["metadata"]["labels"][identity.PRIORITY_CLASS] == "high"
    assert identity.QUEUE_NAME not in job["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in stage_job(cluster_run(), intent(cluster_run()), PLATFORM)["spec"]


def test_nothing_is_writable_but_scratch_space() -> None:
    run = cluster_run(pods=RICH)
    job = stage_job(run, intent(run), PLATFORM)
    assert container(job)["securityContext"]["readOnlyRootFilesystem"] is True
    scratch = {volume["name"] for volume in pod(job)["volumes"] if "emptyDir" in volume}
    writable = {mount["name"] for mount in container(job)["volumeMounts"] if not mount.get("readOnly")}
    assert writable == scratch == {"ippo-work", "ippo-tmp", "ippo-shm", "user-cache"}
    assert pod(job)["automountServiceAccountToken"] is False
    assert pod(job)["securityContext"]["runAsUser"] == 65532
    assert "runAsUser" not in pod(stage_job(run, intent(run), Platform(image="i", user=None)))["securityContext"]


def test_the_command_finds_spec_scratch_space_and_termination_log() -> None:
    job = stage_job(cluster_run(), intent(cluster_run()), PLATFORM)
    mounted = {mount["mountPath"] for mount in container(job)["volumeMounts"]}
    assert container(job)["command"] == [
        *("ippo-stage", "improve", "--spec", "/ippo/spec/spec.json"),
        *("--work-dir", "/ippo/work", "--termination-log", "/dev/termination-log"),
    ]
    assert {"/ippo/spec", "/ippo/work", "/tmp"} <= mounted
    assert container(job)["terminationMessagePath"] == "/dev/termination-log"
    assert variables(job)["HOME"] == "/ippo/work"


def test_credentials_are_a_file_with_one_key_of_the_secret() -> None:
    s3 = {"bucket": "ippo", "credentialsSecretName": "keys-of-s3"}
    run = cluster_run(artifacts={"s3": s3})
    job = stage_job(run, intent(run), PLATFORM)
    [volume] = [volume for volume in pod(job)["volumes"] if "secret" in volume]
    assert volume["secret"]["items"] == [{"key": "credentials", "path": "credentials"}]
    assert variables(job)["AWS_SHARED_CREDENTIALS_FILE"] == "/ippo/s3/credentials"
    assert "keys-of-s3" not in json.dumps(stage_config_map(run, intent(run)))
    assert "AWS_SHARED_CREDENTIALS_FILE" not in variables(stage_job(cluster_run(), intent(cluster_run()), PLATFORM))


def test_a_section_adds_to_common_and_replaces() -> None:
    run = cluster_run(pods=RICH)
    improve, fit_q = stage_job(run, intent(run), PLATFORM), stage_job(run, intent(run, "fit-q"), PLATFORM)
    assert container(improve)["image"] == "mine:2"
    assert container(improve)["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    assert container(fit_q)["resources"]["limits"] == {"memory": "8Gi"}
    assert pod(improve)["nodeSelector"] == {"disk": "ssd", "gpu": "h100"}
    assert pod(improve)["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod(fit_q)["tolerations"] == [{"operator": "Exists"}]
    assert variables(improve)["A"] == "1"
    assert variables(improve)["B"] == "2"
    assert variables(improve)["T"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert variables(fit_q)["B"] == "1"
    assert [volume["name"] for volume in pod(improve)["volumes"] if volume["name"].startswith("user-")] == [
        *("user-logs", "user-cache", "user-models")
    ]


def test_everything_that_may_be_set_arrives() -> None:
    run = cluster_run(pods=RICH, serviceAccountName="trainer")
    job = stage_job(run, intent(run), PLATFORM)
    spec = pod(job)
    assert (spec["serviceAccountName"], spec["runtimeClassName"], spec["priorityClassName"]) == (
        *("trainer", "nvidia", "batch"),
    )
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert list(spec["affinity"]) == ["podAntiAffinity"]
    [spread] = spec["topologySpreadConstraints"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert {"name": "ippo-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in spec["volumes"]
    assert {"name": "ippo-work", "emptyDir": {"sizeLimit": "10Gi"}} in spec["volumes"]
    assert labels["team"] == "a"
    assert job["spec"]["template"]["metadata"]["annotations"] == {"note": "x"}
    assert container(job)["imagePullPolicy"] == "IfNotPresent"


def test_the_same_attempt_is_the_same_job() -> None:
    first = stage_job(cluster_run(pods=RICH), intent(cluster_run()), PLATFORM)
    second = stage_job(cluster_run(pods=RICH), intent(cluster_run()), PLATFORM)
    assert json.dumps(first) == json.dumps(second)


@given(
    st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    st.integers(0, 1000),
    st.integers(1, 9999),
    st.integers(0, 1023),
)
def test_a_shards_host_name_fits(run: str, iteration: int, attempt: int, index: int) -> None:
    assert len(f"{job_name(run, 'uid', iteration, 'collect', attempt)}-{index}") <= 63
    assert len(job_name(run, "uid", 0, "warm-start", attempt)) <= 63


LOG = params.LogHistory(conversations="file:///log.jsonl")
SAMPLED = {
    "environment": params.EnvironmentSpec(name="sr-funnel"),
    "collect": params.Collect(sampler="VLLM"),
    "improve": params.Improve(algorithm="PPO", sampler="VLLM"),
}


@pytest.mark.parametrize(
    ("stage", "history"),
    [("collect", None), ("evaluate", None), ("improve", None), ("evaluate", LOG), ("improve", LOG)],
)
def test_a_stage_that_samples_with_vllm_gets_its_image_and_shared_memory(stage: Any, history: Any) -> None:
    """Also in the iteration that learnt from a log: its candidate meets simulated customers."""
    run = cluster_run()
    wanted = intent(run, stage)
    wanted = replace(wanted, spec=wanted.spec.model_copy(update=SAMPLED | {"history": history}))
    job = stage_job(run, wanted, replace(PLATFORM, serve_image="vllm:1"))
    assert (container(job)["image"], shared_memory(job)) == ("vllm:1", "1Gi")
    assert container(stage_job(run, wanted, replace(PLATFORM, serve_image="")))["image"] == PLATFORM.image
    run = cluster_run(pods={"common": {"image": "mine:1", "sharedMemory": "4Gi"}})
    job = stage_job(run, wanted, replace(PLATFORM, serve_image="vllm:1"))
    assert (container(job)["image"], shared_memory(job)) == ("mine:1", "4Gi")


def test_a_log_is_imported_without_vllm() -> None:
    run = cluster_run()
    wanted = intent(run, "collect")
    wanted = replace(wanted, spec=wanted.spec.model_copy(update=SAMPLED | {"history": LOG}))
    job = stage_job(run, wanted, replace(PLATFORM, serve_image="vllm:1"))
    assert (container(job)["image"], shared_memory(job)) == (PLATFORM.image, None)


@pytest.mark.parametrize("stage", ["collect", "evaluate", "improve", "fit-q", "warm-start"])
def test_other_stages_keep_theirs(stage: Any) -> None:
    run = cluster_run()
    job = stage_job(run, intent(run, stage), replace(PLATFORM, serve_image="vllm:1"))
    assert (container(job)["image"], shared_memory(job)) == (PLATFORM.image, None)


def shared_memory(job: dict[str, Any]) -> Any:
    """Size of /dev/shm, if it is a volume."""
    mounts = {mount["mountPath"]: mount["name"] for mount in container(job)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    return volumes[mounts["/dev/shm"]]["emptyDir"]["sizeLimit"] if "/dev/shm" in mounts else None
