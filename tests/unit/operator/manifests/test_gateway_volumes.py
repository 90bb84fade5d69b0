"""Gateways whose journals have volumes, and the Jobs that empty those that no gateway has."""

from typing import Any

import pytest
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.run_sections import JournalVolume
from ippo_operator.manifests.gateway import GatewayContext, gateway_deployment, gateway_stateful_set
from ippo_operator.manifests.left_journals import ordinal, put_job
from ippo_trainer.contract.spec import StoreLocation

from tests.kit.cluster_objects import RICH, live_run, serving_context

VOLUME = JournalVolume(storage="2Gi", storage_class_name="fast")
CLAIM: dict[str, Any] = {"metadata": {"name": "ippo-journal-shop-gateway-2", "uid": "u-2"}}


def context(run: IterativePPORun | None = None) -> GatewayContext:
    run = run or live_run()
    return GatewayContext(serving_context(run, run.spec.serve))


def test_pods_are_those_of_the_deployment_but_for_the_journal() -> None:
    of = context(live_run(pods=RICH, gateway={"credentialsSecretName": "keys", "keysSecretName": "api"}))
    plain, kept = gateway_deployment(of), gateway_stateful_set(of, VOLUME)
    volumes = plain["spec"]["template"]["spec"]["volumes"]
    assert volumes.pop() == {"name": "ippo-journal", "emptyDir": {}}
    assert kept["spec"]["template"] == plain["spec"]["template"]
    for field in ("selector", "replicas"):
        assert kept["spec"][field] == plain["spec"][field]
    security = kept["spec"]["template"]["spec"]["securityContext"]
    assert security["fsGroup"] == security["runAsUser"]  # or the gateway could not write to the volume


def test_claims_are_the_runs_and_outlive_pods_and_the_stateful_set() -> None:
    of = context()
    kept = gateway_stateful_set(of, VOLUME)
    [claim] = kept["spec"]["volumeClaimTemplates"]
    [mount] = [m for m in kept["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] if "journal" in m["name"]]
    assert claim["metadata"]["name"] == mount["name"]
    [owner] = claim["metadata"]["ownerReferences"]
    assert (owner["uid"], "controller" in owner) == (of.run.metadata.uid, False)
    assert kept["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Gi"}},
        "storageClassName": "fast",
    }
    [default] = gateway_stateful_set(of, JournalVolume(storage="2Gi"))["spec"]["volumeClaimTemplates"]
    assert "storageClassName" not in default["spec"]


@pytest.mark.parametrize("length", [1, 44, 45, 63])
def test_a_stateful_set_has_a_name_that_its_pods_may_carry_in_a_label(length: int) -> None:
    names = {context(live_run("a" * (length - 1) + end)).set_name for end in "ab"}
    assert len(names) == 2
    assert all(len(f"{name}-0123456789") <= 63 for name in names)
    assert all(len(put_job(context(live_run("a" * length)), CLAIM, 999)["metadata"]["name"]) <= 63 for _ in names)


@pytest.mark.parametrize("own", [None, "live-keys"])
def test_a_volume_is_emptied_with_what_gateways_have(own: str | None) -> None:
    section = {} if own is None else {"credentialsSecretName": own}
    run = live_run(pods=RICH, gateway=section, artifacts={"s3": {"bucket": "ippo", "credentialsSecretName": "whole"}})
    of = context(run)
    [gateway] = gateway_deployment(of)["spec"]["template"]["spec"]["containers"]
    job = put_job(of, CLAIM, 2)
    pod = job["spec"]["template"]["spec"]
    [put] = pod["containers"]
    assert put["command"][:3] == ["python", "-m", "ippo_trainer.gateway.put"]
    options = dict(zip(put["command"][3::2], put["command"][4::2], strict=True))
    assert options["--journal"] in {mount["mountPath"] for mount in put["volumeMounts"]}
    assert StoreLocation.model_validate_json(options["--log"]) == of.store
    assert (put["image"], put["resources"], put["env"]) == (gateway["image"], gateway["resources"], gateway["env"])
    mounted = {mount["name"] for mount in put["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in pod["volumes"]}
    secrets = [
        volume["secret"]["secretName"]
        for volume in pod["volumes"]
        if volume["name"] in mounted & {"ippo-s3", "ippo-live-s3"}
    ]
    assert secrets == [own or "whole"]
    [claim] = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if volume["name"] == "ippo-journal"]
    assert claim == {"claimName": CLAIM["metadata"]["name"]}


def test_a_claim_goes_with_its_job_and_with_nothing_else() -> None:
    [owner] = put_job(context(), CLAIM, 2)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("PersistentVolumeClaim", "u-2")


def test_no_gateway_is_taken_for_another_one() -> None:
    of = context()
    assert ordinal(of, "ippo-journal-shop-gateway-12") == 12
    for name in (
        "ippo-journal-shop-gateway",
        "ippo-journal-shop-gateway-",
        "ippo-journal-shop-gateway-1x",
        "shop-gateway-1",
    ):
        assert ordinal(of, name) is None
    assert ordinal(of, "ippo-journal-my-shop-gateway-1") is None
