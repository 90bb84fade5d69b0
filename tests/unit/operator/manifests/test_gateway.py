"""The gateway's objects, and the candidate's servers beside the active ones."""

import json
from typing import Any

import pytest
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests import identity
from ippo_operator.manifests.gateway import (
    GatewayContext,
    candidate_of,
    gateway_config_map,
    gateway_deployment,
    gateway_service,
)
from ippo_operator.manifests.serving import ServingContext, serving_deployment, serving_service
from ippo_operator.plan.names import companion_name
from ippo_operator.plan.types import LiveIntent
from ippo_trainer.contract.live import Routes
from ippo_trainer.contract.spec import StoreLocation

from tests.kit.cluster_objects import POLICY, RICH, live_run, serving_context

from .test_routes import CANARY

EVERY_FIELD: dict[str, Any] = {
    "replicas": 2,
    "port": 9090,
    "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "512Mi"}},
    "credentialsSecretName": "live-keys",
    "keysSecretName": "api-keys",
    "allowedOrigins": ["https://shop.example"],
    "redact": ["Email", "shop.redaction:names"],
    "maxWaiting": 64,
    "journalBytes": 1 << 20,
}


def servers(run: IterativePPORun) -> ServingContext:
    assert run.spec.serve is not None
    return serving_context(run, run.spec.serve)


def deployment(run: IterativePPORun) -> dict[str, Any]:
    return gateway_deployment(GatewayContext(servers(run)))


def pod_of(run: IterativePPORun) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(run)["spec"]["template"]["spec"]
    return spec


def options(run: IterativePPORun) -> list[tuple[str, str]]:
    """What the gateway's command says, in its order."""
    [gateway] = pod_of(run)["containers"]
    program, *rest = gateway["command"]
    assert program == "ippo-gateway"
    return list(zip(rest[::2], rest[1::2], strict=True))


def test_a_gateway_of_defaults_says_where_it_reads_and_writes() -> None:
    run = live_run()
    said = dict(options(run))
    assert StoreLocation.model_validate_json(said.pop("--log")) == servers(run).store.below("live")
    assert said == {
        "--routes": "/ippo/routes/routes.json",
        "--journal": "/ippo/journal",
        "--port": "8080",
        "--internal-port": "9090",
        "--grace-seconds": "280",
    }


def test_every_field_of_the_section_is_an_option() -> None:
    said = options(live_run(gateway=EVERY_FIELD))
    assert {("--allow-origin", "https://shop.example"), ("--redact", "Email"), ("--max-waiting", "64")} <= set(said)
    assert {("--redact", "shop.redaction:names"), ("--journal-bytes", "1048576")} <= set(said)
    assert {("--keys", "/ippo/keys/keys"), ("--port", "9090"), ("--internal-port", "9091")} <= set(said)


def test_the_routes_are_a_file_in_a_folder_of_which_no_pod_is_made_anew() -> None:
    run = live_run()
    context = GatewayContext(servers(run))
    calm, canary = (gateway_config_map(context, live) for live in (LiveIntent(POLICY), CANARY))
    said = Routes.model_validate_json(canary["data"]["routes.json"])
    assert said.canary is not None
    assert (said.active.url, said.canary.route.url) == (
        "http://shop.default.svc:8000",
        "http://shop-candidate.default.svc:8000",
    )
    assert Routes.model_validate_json(calm["data"]["routes.json"]).canary is None
    [mount] = [m for m in pod_of(run)["containers"][0]["volumeMounts"] if m["name"] == "ippo-routes"]
    assert "subPath" not in mount  # such a file is never renewed
    [volume] = [v for v in pod_of(run)["volumes"] if v["name"] == "ippo-routes"]
    assert volume["configMap"]["name"] == canary["metadata"]["name"] == "shop-gateway"


def test_personas_change_the_routes_and_replace_no_pod() -> None:
    plain, explored = live_run(), live_run(collect={"logged": {"personas": [{"name": "brief", "share": "0.1"}]}})
    assert deployment(plain)["spec"] == deployment(explored)["spec"]
    routes = [gateway_config_map(GatewayContext(servers(run)), LiveIntent(POLICY)) for run in (plain, explored)]
    assert routes[0]["data"] != routes[1]["data"]


def test_no_event_is_lost_by_a_roll_out() -> None:
    spec = deployment(live_run())["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    pod = spec["template"]["spec"]
    [gateway] = pod["containers"]
    drain = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    own = float(dict(options(live_run()))["--grace-seconds"])
    assert pod["terminationGracePeriodSeconds"] > drain + own >= 125  # a bucket may be away for a while
    assert {"name": "ippo-journal", "emptyDir": {}} in pod["volumes"]
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http", "scheme": "HTTP"}


def test_the_service_leads_to_both_ports_of_gateways_and_to_nothing_else() -> None:
    run = live_run(gateway=EVERY_FIELD)
    spec = gateway_service(GatewayContext(servers(run)))["spec"]
    [gateway] = pod_of(run)["containers"]
    own = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert {port["targetPort"]: port["port"] for port in spec["ports"]} == own == {"http": 9090, "internal": 9091}
    candidate = candidate_of(servers(run), CANARY)
    pods = {
        "gateway": deployment(run)["spec"]["template"]["metadata"]["labels"],
        "candidate": serving_deployment(candidate, POLICY)["spec"]["template"]["metadata"]["labels"],
        "server": serving_deployment(servers(run), POLICY)["spec"]["template"]["metadata"]["labels"],
    }
    selectors = {
        "gateway": spec["selector"],
        "candidate": serving_service(candidate)["spec"]["selector"],
        "server": serving_service(servers(run))["spec"]["selector"],
    }
    meets = {(name, pod) for name, chosen in selectors.items() for pod in pods if chosen.items() <= pods[pod].items()}
    assert meets == {(name, name) for name in pods}


@pytest.mark.parametrize("secret", [None, "live-keys"])
def test_gateways_get_credentials_of_the_bucket_or_their_own(secret: str | None) -> None:
    gateway = {} if secret is None else {"credentialsSecretName": secret}
    pod = pod_of(live_run(gateway=gateway, artifacts={"s3": {"bucket": "ippo", "credentialsSecretName": "whole"}}))
    [container] = pod["containers"]
    [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == "/ippo/s3"]
    [volume] = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == (secret or "whole")
    files = [each["value"] for each in container["env"] if each["name"] == "AWS_SHARED_CREDENTIALS_FILE"]
    assert files == ["/ippo/s3/credentials"]


def test_api_keys_are_a_file_of_one_key_of_the_secret() -> None:
    pod = pod_of(live_run(gateway={"keysSecretName": "api-keys"}))
    [volume] = [v for v in pod["volumes"] if v["name"] == "ippo-keys"]
    assert volume["secret"]["items"] == [{"key": "keys", "path": "keys"}]
    assert "ippo-keys" not in json.dumps(pod_of(live_run()))


def test_a_gateway_has_the_stages_image_and_settings_and_no_gpu() -> None:
    pods = RICH | {"common": RICH["common"] | {"resources": {"limits": {"memory": "8Gi", "nvidia.com/gpu": 1}}}}
    pod = pod_of(live_run(pods=pods))
    [gateway] = pod["containers"]
    assert gateway["image"] == "mine:2"
    assert gateway["resources"] == {"limits": {"memory": "8Gi"}}
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert "activeDeadlineSeconds" not in pod
    [small] = pod_of(live_run(pods=pods, gateway=EVERY_FIELD))["containers"]
    assert small["resources"] == {"requests": {"cpu": "250m"}, "limits": {"memory": "512Mi"}}


def test_a_candidates_servers_are_those_of_the_policy_under_another_name() -> None:
    run = live_run(serve={"replicas": 8, "strategy": "Canary"})
    active, candidate = servers(run), candidate_of(servers(run), CANARY)
    one, other = serving_deployment(active, POLICY), serving_deployment(candidate, POLICY)
    assert (one["metadata"]["name"], other["metadata"]["name"]) == ("shop", "shop-candidate")
    assert one["spec"]["strategy"] == other["spec"]["strategy"] == deployment(run)["spec"]["strategy"]
    assert (one["spec"]["replicas"], other["spec"]["replicas"]) == (8, 2)  # a quarter of the conversations
    assert other["metadata"]["annotations"][identity.REPLICAS] == "2"
    assert one["spec"]["template"]["spec"] == other["spec"]["template"]["spec"]
    assert serving_service(candidate)["metadata"]["name"] == "shop-candidate"


def test_a_candidate_has_at_least_one_server() -> None:
    run = live_run(serve={"replicas": 0})
    assert serving_deployment(candidate_of(servers(run), CANARY), POLICY)["spec"]["replicas"] == 1


@pytest.mark.parametrize("length", [1, 54, 55, 56, 63])
def test_companions_have_names_of_their_own_however_long_the_runs_is(length: int) -> None:
    one, other = "a" * length, "a" * (length - 1) + "b"
    names = [companion_name(run, kind) for run in (one, other) for kind in ("gateway", "candidate")]
    assert len(set(names)) == 4
    assert all(len(name) <= 63 and name.startswith("a" * min(length - 1, 40)) for name in names)
    assert all(name.endswith(("-gateway", "-candidate")) for name in names)
