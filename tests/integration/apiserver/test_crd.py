"""The CRD on a real API server: what it refuses and with which words, defaults, immutability, status."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippo_operator.api import cel
from ippo_operator.api.changes import IMMUTABLE, ONLY_RISES
from ippo_operator.api.crd import custom_resource_definition, to_yaml
from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.rules import RULES

from tests.kit.control_plane import RUNS, Api
from tests.kit.real_controllers import CRDS

from .cases import BAD, GOOD, LIVE, WELL, Bad, changed

HERE = RUNS.format("default")
TRY = f"{HERE}?dryRun=All&fieldValidation=Strict"
FILE = Path(__file__).parents[3] / "crds" / "ippo.dev_iterativepporuns.yaml"
CRD = f"{CRDS}/iterativepporuns.ippo.dev"


def test_the_file_is_what_the_models_say_and_small_enough() -> None:
    assert FILE.read_text() == to_yaml()
    # kubectl's client-side apply keeps a copy in an annotation of at most 256 KiB
    assert len(json.dumps(custom_resource_definition())) <= 240_000


def test_it_installs_and_applies_again_without_a_change(api: Api) -> None:
    installed = api.get(CRD).body
    conditions = {condition["type"]: condition["status"] for condition in installed["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    again = api.apply(CRD, custom_resource_definition())
    assert again.code == 200, again.message
    assert again.body["metadata"]["generation"] == installed["metadata"]["generation"]


def test_kubectl_knows_short_name_category_and_columns(api: Api) -> None:
    resources = api.get("/apis/ippo.dev/v1alpha1").body["resources"]
    [runs] = [resource for resource in resources if resource["name"] == "iterativepporuns"]
    assert (runs["shortNames"], runs["categories"]) == (["ippo"], ["ml"])
    assert any(resource["name"] == "iterativepporuns/status" for resource in resources)
    columns = api.get(CRD).body["spec"]["versions"][0]["additionalPrinterColumns"]
    narrow = [column["name"] for column in columns if not column.get("priority")]
    assert narrow == ["Progress", "Stage", "Best", "Promoted", "Ready", "Reason", "Age"]


def test_defaults_are_those_of_the_models(api: Api) -> None:
    answer = api.create(TRY, GOOD)
    assert answer.code == 201, answer.message
    assert answer.body["spec"]["discount"] == "0.95"
    assert answer.body["spec"]["evaluate"]["gate"]["onInconclusive"] == "Reject"
    assert parse_run(answer.body).spec == parse_run(GOOD).spec


@pytest.mark.parametrize(("path", "value"), WELL)
def test_both_accept(api: Api, path: str, value: Any) -> None:
    document = changed(path, value)
    expected = parse_run(document).spec
    answer = api.create(TRY, document)
    assert answer.code == 201, answer.message
    assert parse_run(answer.body).spec == expected


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.path}={str(bad.value)[:40]}")
def test_both_refuse(api: Api, bad: Bad) -> None:
    document = changed(bad.path, bad.value)
    with pytest.raises(ManifestError):
        parse_run(document)
    answer = api.create(TRY, document)
    assert answer.code in {400, 422}, answer.body
    assert bad.rule in answer.message
    assert bad.path.split(".")[-1] in answer.message


def test_every_rule_has_a_case_that_breaks_it() -> None:
    rules = {rule.message for rules in RULES.values() for rule in rules}
    assert {message for message in rules if message not in {bad.rule for bad in BAD}} == {
        "is missing; pods keep nothing, so a run in a cluster needs an S3 bucket: artifacts.s3.bucket"
    }


def test_a_run_in_a_cluster_needs_a_bucket_and_a_local_one_does_not(api: Api) -> None:
    document = changed("spec.artifacts", ...)
    assert parse_run(document).spec.artifacts is None
    answer = api.create(TRY, document)
    assert answer.code == 422
    assert "spec.artifacts: Invalid value" in answer.message
    assert "a run in a cluster needs an S3 bucket" in answer.message


@pytest.mark.parametrize(("name", "fine"), [("a" * 63, True), ("a" * 64, False), ("1a", False), ("a.b", False)])
def test_names_become_parts_of_names(api: Api, name: str, fine: bool) -> None:
    answer = api.create(TRY, changed("metadata.name", name))
    assert answer.code == (201 if fine else 422)
    assert fine or "child names and artifact paths are made of it" in answer.message


CHANGES: dict[str, Any] = {
    "spec.seed": 1,
    "spec.discount": "0.9",
    "spec.threads": 1,
    "spec.device": "cpu",
    "spec.iterations.stopWhen": {"consecutiveRejections": 1},
    "spec.policy": {"base": "tiny:d64-l2"},
    "spec.warmStart": {"epochs": 1},
    "spec.collect.simulate": {"environment": {"name": "sr-funnel", "options": {"horizon": 4}}},
    "spec.collect.history": {"conversations": "s3://a/b"},
    "spec.artifacts.s3.bucket": "other",
    "spec.artifacts.s3.prefix": "elsewhere",
    "spec.artifacts.s3.encryption": "SSE-S3",
    "spec.artifacts.s3.kmsKeyId": "alias/mine",
    "spec.fitQ.initFrom": "PreviousQ",
    "spec.fitQ.epochs": 1,
    "spec.fitQ.patience": 1,
    "spec.fitQ.learningRate": "0.1",
    "spec.fitQ.batchSize": 1,
    "spec.fitQ.holdout": "0.3",
    "spec.fitQ.lmLossWeight": "0",
    "spec.fitQ.traceLambda": "0.5",
    "spec.fitQ.lastLayer": "Gradient",
    "spec.fitQ.method": "SARSA",
    "spec.fitQ.maxForeign": "0.5",
    "spec.fitQ.ranks": [4],
    "spec.fitQ.folds": 2,
    "spec.fitQ.ridge": "10",
    "spec.fitQ.earlierIterations": 1,
    "spec.improve": {"updates": 1},
    "spec.evaluate": {"gate": {"metric": "Success"}},
    "spec.promotion.mode": "Manual",
    "spec.retries.backoffSeconds": 1,
    "spec.historyLimit": 1,
}
LIVE_CHANGES: dict[str, Any] = {
    "spec.collect.logged": None,
    "spec.collect.logged.maxConversations": 10,
    "spec.collect.logged.idle": "1h",
    "spec.collect.logged.outcomeWindow": "1d",
}
"""Of a run of live conversations."""
RISES = {
    "spec.iterations.max": 2,
    "spec.retries.tryAgain": 5,
    "spec.retries.crashes": 2,
    "spec.retries.disruptions": 100,
}
FREE: dict[str, Any] = {
    "spec.suspend": True,
    "spec.promotion.approve": 1,
    "spec.promotion.reject": 2,
    "spec.cleanup": {"succeededSeconds": 1},
    "spec.pods": {"common": {"image": "other"}},
    "spec.retries.requested": 1,
    "spec.queue": {"localQueueName": "q"},
    "spec.serve": {"replicas": 2},
    "spec.serviceAccountName": "x",
    "spec.fitQ.onUninformative": "CollectMore",
    "spec.fitQ.maxCollections": 5,
    "spec.artifacts.s3.endpointUrl": "http://new:9000",
    "spec.artifacts.s3.region": "eu-central-1",
    "spec.artifacts.s3.credentialsSecretName": "new",
}


@pytest.fixture
def created(api: Api) -> str:
    """The path of a run that has not started."""
    api.delete(f"{HERE}/started")
    document = changed("metadata.name", "started", changed("spec.artifacts.s3.encryption", "SSE-KMS"))
    assert api.create(HERE, document).code == 201
    return f"{HERE}/started"


@pytest.fixture
def started(api: Api, created: str) -> str:
    """The path of a run whose first attempt was named."""
    answer = api.merge(f"{created}/status", {"status": {"stage": "warm-start"}})
    assert answer.code == 200, answer.message
    return created


def test_before_a_run_starts_everything_may_change(api: Api, created: str) -> None:
    for path, value in CHANGES.items():
        answer = api.merge(f"{created}?dryRun=All", changed(path, value, {}))
        assert answer.code == 200, answer.message


def test_what_a_started_run_may_change_and_what_not(api: Api, started: str) -> None:
    rules = {rule["fieldPath"][1:] for rule in cel.validations(IterativePPORun) if "fieldPath" in rule}
    assert rules == {*CHANGES, *LIVE_CHANGES, *RISES, "spec.artifacts"}  # which no run in a cluster can be without
    for path, value in CHANGES.items():
        answer = api.merge(started, changed(path, value, {}))
        assert answer.code == 422, path
        assert f"{path}: Forbidden: {IMMUTABLE}" in answer.message
    for path, value in RISES.items():
        answer = api.merge(started, changed(path, value - 1, {}))
        assert f"{path}: Forbidden: {ONLY_RISES}" in answer.message
        answer = api.merge(started, changed(path, value + 1, {}))
        assert answer.code == 200, answer.message
    for path, value in FREE.items():
        answer = api.merge(started, changed(path, value, {}))
        assert answer.code == 200, answer.message


def test_what_is_wanted_of_live_conversations_may_change_and_not_what_they_are(api: Api) -> None:
    path = f"{HERE}/live"
    api.delete(path)
    assert api.create(HERE, GOOD | {"metadata": {"name": "live"}, "spec": LIVE}).code == 201
    assert api.merge(f"{path}/status", {"status": {"stage": "collect"}}).code == 200
    for field, value in LIVE_CHANGES.items():
        answer = api.merge(path, changed(field, value, {}))
        assert answer.code == 422, field
        assert f"{field}: Forbidden: {IMMUTABLE}" in answer.message
    for field, value in {
        "spec.collect.logged.minConversations": 10,
        "spec.collect.logged.minOutcomes": 2,
        "spec.gateway": {"replicas": 2},
        "spec.serve.canary": {"share": "0.2"},
    }.items():
        answer = api.merge(path, changed(field, value, {}))
        assert answer.code == 200, answer.message


def test_between_two_iterations_a_run_has_started_too(api: Api, started: str) -> None:
    policy = {"key": "iterations/0000/policy/x", "digest": "sha256:" + "0" * 64}
    answer = api.merge(f"{started}/status", {"status": {"stage": None, "startPolicy": policy}})
    assert answer.code == 200, answer.message
    assert "seed" not in answer.body["status"]
    assert api.merge(started, {"spec": {"seed": 9}}).code == 422


def test_a_run_that_nobody_looked_at_yet_says_so(api: Api) -> None:
    path = RUNS.format("default")
    answer = api.create(path, changed("metadata.name", "unseen")).body
    item = api.get(f"{path}/unseen").body
    assert item["status"] == {"observedGeneration": -1}  # else kstatus would take it for done
    assert api.merge(f"{path}/unseen", {"spec": {"seed": 9}}).code == 200  # and it has not started
    assert answer["metadata"]["uid"] == item["metadata"]["uid"]
    api.delete(f"{path}/unseen")


def test_spec_and_status_are_written_apart(api: Api, started: str) -> None:
    before = api.get(started).body
    via_spec = api.merge(started, {"status": {"stage": "collect"}, "spec": {"suspend": True}}).body
    assert (via_spec["status"]["stage"], via_spec["spec"]["suspend"]) == ("warm-start", True)
    assert via_spec["metadata"]["generation"] == before["metadata"]["generation"] + 1
    via_status = api.merge(f"{started}/status", {"status": {"stage": "collect"}, "spec": {"suspend": False}}).body
    assert (via_status["status"]["stage"], via_status["spec"]["suspend"]) == ("collect", True)
    assert via_status["metadata"]["generation"] == via_spec["metadata"]["generation"]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"stage": "train"}, "status.stage"),
        ({"progress": "x" * 17}, "status.progress"),
        ({"iterations": [{"iteration": n, "startedAt": "2026-01-31T12:00:00Z"} for n in range(21)]}, "at most 20"),
    ],
)
def test_a_status_has_bounds(api: Api, started: str, status: dict[str, Any], word: str) -> None:
    answer = api.merge(f"{started}/status", {"status": status})
    assert answer.code == 422
    assert word in answer.message


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "0.5", "1", "x", "2Gi", "file:///x", "8" * 70]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "value", "key"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = sorted({bad.path for bad in BAD if bad.path.startswith("spec.")} | {path for path, _ in WELL})


@given(st.sampled_from(FIELDS), values)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_server_stores_the_operator_can_read(api: Api, path: str, value: Any) -> None:
    answer = api.create(TRY, changed(path, value))
    if answer.code == 201:
        parse_run(answer.body)
    else:
        assert answer.code in {400, 422}, answer.body
