"""What the builders make is accepted by a real API server, pods by Pod Security's `restricted` too."""

from datetime import UTC, datetime
from typing import Any

import pytest
from ippo_operator.api.load import parse_run
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import JournalVolume, Serve
from ippo_operator.manifests.gateway import (
    GatewayContext,
    candidate_of,
    gateway_config_map,
    gateway_deployment,
    gateway_service,
    gateway_stateful_set,
)
from ippo_operator.manifests.jobs import stage_config_map, stage_job
from ippo_operator.manifests.left_journals import put_job
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.serving import serving_deployment, serving_service
from ippo_operator.plan.types import CanaryIntent, LiveIntent
from ippo_trainer.contract.live import Canary

from tests.kit.cluster_objects import PLATFORM, POLICY, RICH, cluster_run, intent, live_run, serving_context
from tests.kit.control_plane import RUNS, Api

CANARY = LiveIntent(POLICY, CanaryIntent(POLICY, datetime(2026, 1, 31, tzinfo=UTC), Canary()))
SPECS: list[dict[str, Any]] = [
    {},
    {"pods": RICH, "serviceAccountName": "trainer", "queue": {"localQueueName": "q", "priorityClassName": "p"}},
    {"artifacts": {"s3": {"bucket": "ippo", "credentialsSecretName": "keys"}}},
]
LIVE: dict[str, Any] = {
    "gateway": {"credentialsSecretName": "live-keys", "keysSecretName": "api-keys", "redact": ["Email"]},
    "serve": {"strategy": "Canary", "replicas": 3},
}
PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
}
CLAIM = {"metadata": {"name": "ippo-journal-shop-gateway-99", "uid": "6f0f9b7c-5f0e-4a53-9f3d-0c2a7d1d9f11"}}


def path(kind: str, namespace: str = "default") -> str:
    return PATHS[kind].format(namespace) + "?dryRun=All&fieldValidation=Strict"


@pytest.fixture(scope="module")
def classes(api: Api) -> None:
    """What the pods of RICH name."""
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "batch"},
        "value": 1,
    }
    assert api.create("/apis/scheduling.k8s.io/v1/priorityclasses", priority).code == 201
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "n"}
    assert api.create("/apis/node.k8s.io/v1/runtimeclasses", runtime).code == 201


def objects(run: IterativePPORun, platform: Platform = PLATFORM) -> list[dict[str, Any]]:
    jobs = [intent(run), intent(run, "collect", shards=3), intent(run, "warm-start", iteration=0)]
    serve = Serve()
    return [
        *(stage_config_map(run, wanted) for wanted in jobs),
        *(stage_job(run, wanted, platform) for wanted in jobs),
        serving_deployment(serving_context(run, serve, platform), POLICY),
        serving_deployment(serving_context(run, Serve(strategy="Recreate"), platform), POLICY),
        serving_service(serving_context(run, serve)),
    ]


def live_objects(run: IterativePPORun, platform: Platform = PLATFORM) -> list[dict[str, Any]]:
    servers = serving_context(run, run.spec.serve, platform)
    gateway, candidate = GatewayContext(servers), candidate_of(servers, CANARY)
    kept = gateway_stateful_set(gateway, JournalVolume(storage="2Gi", storage_class_name="fast"))
    [claim] = kept["spec"]["volumeClaimTemplates"]
    return [
        gateway_config_map(gateway, CANARY),
        gateway_deployment(gateway),
        kept,
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim"} | claim,
        put_job(gateway, CLAIM, 99),
        gateway_service(gateway),
        serving_deployment(candidate, POLICY),
        serving_service(candidate),
    ]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("user", [65532, None])
@pytest.mark.usefixtures("classes")
def test_every_object_is_valid(api: Api, spec: dict[str, Any], user: int | None) -> None:
    platform, live = Platform(image="trainer:1", serve_image="server:1", user=user), LIVE | spec
    for made in [*objects(cluster_run(**spec), platform), *live_objects(live_run(**live), platform)]:
        answer = api.create(path(made["kind"]), made)
        assert answer.code == 201, (made["kind"], answer.message)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.usefixtures("classes")
def test_every_pod_is_restricted(api: Api, spec: dict[str, Any]) -> None:
    for made in [*objects(cluster_run(**spec)), *live_objects(live_run(**LIVE | spec))]:
        if made["kind"] not in {"Job", "Deployment", "StatefulSet"}:
            continue
        template = made["spec"]["template"]
        for claim in made["spec"].get("volumeClaimTemplates") or ():  # as the controller of StatefulSets does
            volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": "a-claim"}}
            template["spec"]["volumes"].append(volume)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": template["metadata"] | {"name": "x"},
            "spec": template["spec"],
        }
        answer = api.create(path("Pod", "strict"), pod)
        assert answer.code == 201, answer.message


def test_pod_security_is_really_on(api: Api) -> None:
    pod = {"containers": [{"name": "c", "image": "i"}]}
    answer = api.create(
        path("Pod", "strict"), {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    )
    assert (answer.code, "violates PodSecurity" in answer.message) == (403, True)


@pytest.mark.usefixtures("classes")
def test_the_longest_names_are_valid(api: Api) -> None:
    spec = {"collect": {"simulate": {"environment": {"name": "sr-funnel"}, "parallelism": 1024}}}
    run = cluster_run("a" * 63, **spec)
    for wanted in (
        intent(run, "collect", shards=1024, attempt=9999, iteration=1000),
        intent(run, "warm-start", attempt=9999, iteration=0),
    ):
        answer = api.create(path("Job"), stage_job(run, wanted, PLATFORM))
        assert answer.code == 201, answer.message
    for made in live_objects(live_run("a" * 63)):
        answer = api.create(path(made["kind"]), made)
        assert answer.code == 201, answer.message


def test_a_spec_cannot_be_altered_and_a_second_job_is_a_conflict(api: Api) -> None:
    answer = api.create(
        RUNS.format("default"),
        cluster_run("frozen").model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"status": True, "metadata": {"uid", "generation"}}
        ),
    )
    assert answer.code == 201, answer.message
    run = parse_run(answer.body)
    wanted = intent(run)
    config_map = stage_config_map(run, wanted)
    place = PATHS["ConfigMap"].format("default")
    assert api.create(place, config_map).code == 201
    assert api.create(place, config_map).code == 409
    changed = api.merge(f"{place}/{wanted.name}", {"data": {"spec.json": "{}"}})
    assert (changed.code, "immutable" in changed.message) == (422, True)
    jobs = PATHS["Job"].format("default")
    assert api.create(jobs, stage_job(run, wanted, PLATFORM)).code == 201
    assert api.create(jobs, stage_job(run, wanted, PLATFORM)).code == 409


def test_applying_the_same_deployment_twice_changes_nothing(api: Api) -> None:
    run = cluster_run("served")
    deployment = serving_deployment(serving_context(run), POLICY)
    place = f"{PATHS['Deployment'].format('default')}/served"
    first = api.apply(place, deployment, "ippo-operator")
    assert first.code == 201, first.message
    again = api.apply(place, deployment, "ippo-operator")
    assert (again.code, again.body["metadata"]["resourceVersion"]) == (200, first.body["metadata"]["resourceVersion"])
