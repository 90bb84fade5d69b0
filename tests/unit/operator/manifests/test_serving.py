"""The Deployment and Service of the promoted policy."""

import json
from typing import Any

import pytest
from ippo_operator.api.run_sections import Serve, ServeLog
from ippo_operator.manifests import identity
from ippo_operator.manifests.platform import Platform
from ippo_operator.manifests.serving import serving_deployment, serving_service
from ippo_trainer.contract.spec import StoreLocation

from tests.kit.cluster_objects import POLICY, RICH, cluster_run, location, serving_context


def deployment(serve: Serve | None = None, **spec: Any) -> dict[str, Any]:
    run = cluster_run(**spec)
    return serving_deployment(serving_context(run, serve), POLICY)


def test_no_server_starts_before_the_policy_is_verified() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    [fetch], [server] = pod["initContainers"], pod["containers"]
    arguments = dict(zip(fetch["command"][3::2], fetch["command"][4::2], strict=True))
    assert fetch["command"][:3] == ["python", "-m", "ippo_trainer.store.fetch"]
    assert (arguments["--key"], arguments["--digest"]) == (POLICY.artifact.key, POLICY.artifact.digest)
    assert StoreLocation.model_validate_json(arguments["--store"]) == location(cluster_run())
    assert arguments["--to"] == server["command"][server["command"].index("--policy") + 1]
    policy = {c["name"]: m for c in (fetch, server) for m in c["volumeMounts"] if m["name"] == "ippo-policy"}
    assert "readOnly" not in policy["fetch"]
    assert policy["server"]["readOnly"] is True
    assert (fetch["image"], server["image"]) == ("trainer:1", "server:1")


def test_only_weights_that_stay_in_memory_must_fit_there() -> None:
    for engine, fits in (("Transformers", True), ("VLLM", False)):
        [fetch] = deployment(Serve(engine=engine))["spec"]["template"]["spec"]["initContainers"]
        assert ("--fits-memory" in fetch["command"]) == fits


@pytest.mark.parametrize("folder", ["/bases", "/bases/of/this/team", "/base"])
def test_only_the_download_writes_where_bases_are_kept(folder: str) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "bases"}, "readOnly": False}
    volumes = [{"name": "bases", "mountPath": "/bases", **claim}, {"name": "more", "mountPath": "/base-2", **claim}]
    common = {"volumes": volumes, "env": [{"name": "IPPO_BASE_CACHE", "value": folder}]}
    pod = deployment(pods={"common": common})["spec"]["template"]["spec"]
    [fetch], [server] = pod["initContainers"], pod["containers"]
    written = [
        [mount["mountPath"] for mount in each["volumeMounts"] if mount.get("readOnly") is False]
        for each in (fetch, server)
    ]
    assert written[0] == ["/bases", "/base-2"]
    assert written[1] == (["/bases", "/base-2"] if folder == "/base" else ["/base-2"])


def test_another_policy_is_another_template_for_the_same_pods() -> None:
    run = cluster_run()
    other = POLICY.model_copy(
        update={"iteration": 4, "artifact": POLICY.artifact.model_copy(update={"digest": "sha256:" + "b" * 64})}
    )
    first, second = (serving_deployment(serving_context(run), p) for p in (POLICY, other))
    assert first["spec"]["template"] != second["spec"]["template"]
    assert first["spec"]["selector"] == second["spec"]["selector"]
    assert first["spec"]["selector"]["matchLabels"].items() <= first["spec"]["template"]["metadata"]["labels"].items()
    assert second["spec"]["template"]["metadata"]["annotations"][identity.POLICY_DIGEST] == "sha256:" + "b" * 64


def test_a_store_that_moved_is_another_template_for_the_same_pods() -> None:
    first, second = (
        deployment(artifacts={"s3": {"bucket": "ippo", "endpointUrl": f"http://{host}:9000"}})
        for host in ("old", "new")
    )
    settings, other = (made["spec"]["template"]["metadata"]["annotations"] for made in (first, second))
    assert settings[identity.SETTINGS_DIGEST] != other[identity.SETTINGS_DIGEST]
    assert first["spec"]["selector"] == second["spec"]["selector"]


def test_surge_keeps_serving_and_recreate_needs_no_spare_gpu() -> None:
    surge = deployment(Serve(strategy="Surge"))["spec"]["strategy"]
    assert surge == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert deployment(Serve(strategy="Recreate"))["spec"]["strategy"] == {"type": "Recreate"}


def test_a_slow_start_fails_by_the_progress_deadline_not_by_its_probe() -> None:
    spec = deployment(Serve(progress_deadline_seconds=600))["spec"]
    [server] = spec["template"]["spec"]["containers"]
    probe = server["startupProbe"]
    assert spec["progressDeadlineSeconds"] == 600
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_gpus_are_the_servers_alone_and_images_are_apart() -> None:
    pod = deployment(pods=RICH)["spec"]["template"]["spec"]
    [fetch], [server] = pod["initContainers"], pod["containers"]
    assert server["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert fetch["resources"]["limits"] == {"memory": "8Gi"}
    assert (fetch["image"], server["image"]) == ("mine:2", "server:1")
    assert "activeDeadlineSeconds" not in pod


def test_without_an_image_of_servers_the_reason_is_told() -> None:
    run = cluster_run()
    with pytest.raises(ValueError, match=r"name one in spec\.pods\.serve\.image"):
        serving_deployment(serving_context(run, Serve(), Platform(image="trainer:1")), POLICY)


def test_the_service_leads_to_the_servers() -> None:
    run = cluster_run()
    service = serving_service(serving_context(run, Serve(port=9000)))
    spec = deployment(Serve(port=9000))["spec"]
    assert service["metadata"]["name"] == "shop"
    assert service["spec"]["selector"] == spec["selector"]["matchLabels"]
    [port] = service["spec"]["ports"]
    [server] = spec["template"]["spec"]["containers"]
    assert port["targetPort"] == server["ports"][0]["name"]
    assert (port["port"], server["ports"][0]["containerPort"]) == (9000, 9000)


def test_the_same_policy_is_the_same_deployment() -> None:
    assert json.dumps(deployment(pods=RICH)) == json.dumps(deployment(pods=RICH))


def options(serve: Serve, **spec: Any) -> dict[str, str]:
    """What the server's command says, by option."""
    [server] = deployment(serve, **spec)["spec"]["template"]["spec"]["containers"]
    start = server["command"].index("--policy")
    return dict(zip(server["command"][start::2], server["command"][start + 1 :: 2], strict=True))


def test_answers_are_cut_where_they_were_in_training_or_where_the_run_says() -> None:
    trained = {"base": "tiny:d32-l1", "maxNewTokens": 700}
    assert options(Serve(), policy=trained)["--max-tokens"] == "700"
    assert options(Serve(max_tokens=2048), policy=trained)["--max-tokens"] == "2048"
    assert "--max-waiting" not in options(Serve())
    assert options(Serve(max_waiting=9))["--max-waiting"] == "9"
    assert "--allow-origin" not in options(Serve())
    assert options(Serve(allowed_origins=("https://shop.example",)))["--allow-origin"] == "https://shop.example"


def test_only_who_fetches_gets_the_buckets_credentials() -> None:
    s3 = {"bucket": "ippo", "credentialsSecretName": "keys-of-s3"}
    pod = deployment(artifacts={"s3": s3}, pods=RICH)["spec"]["template"]["spec"]
    assert "ippo-s3" in {volume["name"] for volume in pod["volumes"]}
    for container, has in ((pod["initContainers"][0], True), (pod["containers"][0], False)):
        assert ("ippo-s3" in {mount["name"] for mount in container["volumeMounts"]}) == has
        assert ("AWS_SHARED_CREDENTIALS_FILE" in {variable["name"] for variable in container["env"]}) == has
        assert "user-logs" in {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("secret", [None, "keys-of-the-log"])
def test_servers_that_log_get_credentials_of_the_bucket_or_their_own(secret: str | None) -> None:
    s3 = {"bucket": "ippo", "prefix": "teams/a", "credentialsSecretName": "keys-of-s3"}
    log = ServeLog(credentials_secret_name=secret)
    template = deployment(Serve(log=log), artifacts={"s3": s3}, pods=RICH)["spec"]["template"]["spec"]
    [server] = template["containers"]
    where = StoreLocation.model_validate_json(server["command"][server["command"].index("--log") + 1])
    assert where.s3 is not None
    assert where.s3.prefix == f"{location(cluster_run(artifacts={'s3': s3})).s3.prefix}/served"
    [mount] = [mount for mount in server["volumeMounts"] if mount["mountPath"] == "/ippo/s3"]
    [volume] = [volume for volume in template["volumes"] if volume["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == (secret or "keys-of-s3")
    assert volume["secret"]["items"] == [{"key": "credentials", "path": "credentials"}]
    files = [each["value"] for each in server["env"] if each["name"] == "AWS_SHARED_CREDENTIALS_FILE"]
    assert files == ["/ippo/s3/credentials"]
    [fetch] = template["initContainers"]
    assert "keys-of-the-log" not in json.dumps(fetch)


@pytest.mark.parametrize(
    ("engine", "limits", "own", "size"),
    [
        ("VLLM", {"nvidia.com/gpu": 4}, None, "1Gi"),
        ("VLLM", {}, None, "1Gi"),
        ("VLLM", {}, "8Gi", "8Gi"),
        ("Transformers", {"nvidia.com/gpu": 4}, None, None),
    ],
)
def test_vllms_processes_get_shared_memory(engine: Any, limits: Any, own: str | None, size: str | None) -> None:
    pods = {"serve": {"resources": {"limits": limits}} | ({} if own is None else {"sharedMemory": own})}
    pod = deployment(Serve(engine=engine), pods=pods)["spec"]["template"]["spec"]
    found = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "ippo-shm"]
    assert found == ([] if size is None else [{"medium": "Memory", "sizeLimit": size}])
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert ("/dev/shm" in mounts) == (size is not None)
