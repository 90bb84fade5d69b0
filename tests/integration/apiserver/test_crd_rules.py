"""Every rule between fields, at every place of the CRD where it stands: a value that breaks it, and one that does not.

The rules are read from the CRD itself, so one that is added without a case here fails. What is immutable once a run
started stands at the root; test_crd has the cases of these.
"""

import copy
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from ippo_operator.api.changes import IMMUTABLE, ONLY_RISES
from ippo_operator.api.crd import custom_resource_definition
from ippo_operator.api.resource import RUN_NAME_WORDS
from ippo_operator.api.rules import NOT_YOURS

from tests.kit.control_plane import RUNS, Api

from .cases import (
    DRAWN_ONCE,
    GOOD,
    HOTTEST,
    IN_ORDER,
    LIVE,
    LOGGED,
    NEEDS_GATEWAY,
    NEEDS_SERVERS,
    NEEDS_SOURCE,
    NO_BONUS,
    NO_CUSTOMERS,
    NO_DEMONSTRATIONS,
    NO_GATEWAY,
    NO_HUB,
    ONE_ITERATION,
    ONE_NODE,
    ONE_OF_BOTH,
    ONE_OF_EACH,
    OWN_CONVERSATIONS,
    OWN_TURNS,
    ROOM,
    SHARES,
    SOME_ERROR,
    TWO,
    TWO_SIDES,
    WARM,
    WHOLE_RETURNS,
    WINDOW,
    persona,
)

TRY = f"{RUNS.format('default')}?dryRun=All&fieldValidation=Strict"
VALUE = {"name": "A", "value": "1"}
KEY = {"name": "n", "key": "k"}
DIRECTORY = {"name": "v", "mountPath": "/data", "emptyDir": {}}
ENVIRONMENT = {"environment": {"name": "sr-funnel"}, "conversations": 4}


class Place(NamedTuple):
    """A rule where it stands; `[]` in the path is an entry of a list."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message[:30]}"


class Case(NamedTuple):
    """What breaks the rule, and what does not though it comes near."""

    breaks: dict[str, Any]
    holds: dict[str, Any]


SPEC, LOG = GOOD["spec"], LOGGED["collect"]["history"]
CASES: dict[str, Case] = {
    "is missing; a tiny: base learns its words from warmStart.conversations or warmStart.demonstrations": Case(
        {key: value for key, value in SPEC.items() if key != "warmStart"},
        {key: value for key, value in SPEC.items() if key != "warmStart"} | {"policy": {"base": "s3://a/b"}},
    ),
    NO_HUB.format("model"): Case({"base": "hf://a/b"}, {"base": "file:///hf:/b"}),
    NO_HUB.format("log"): Case({"conversations": "hf://a/b"}, {"conversations": "s3://hf:/b"}),
    'allowed is above "0": at 0 no later outcome counts': Case(SPEC | {"discount": "0.0"}, SPEC | {"discount": "0.01"}),
    "is missing; pods keep nothing, so a run in a cluster needs an S3 bucket: artifacts.s3.bucket": Case(
        {key: value for key, value in SPEC.items() if key != "artifacts"}, SPEC
    ),
    NO_HUB.format("file"): Case(LOG | {"outcomes": "hf://a/b"}, LOG | {"outcomes": "s3://hf:/b"}),
    NEEDS_SOURCE: Case({}, {"history": LOG, "simulate": ENVIRONMENT}),
    ONE_OF_BOTH: Case({"logged": {}, "simulate": ENVIRONMENT}, {"history": LOG, "simulate": ENVIRONMENT}),
    NEEDS_SERVERS: Case({key: value for key, value in LIVE.items() if key != "serve"}, LIVE),
    NEEDS_GATEWAY: Case(SPEC | {"serve": {"strategy": "Canary"}}, LIVE | {"serve": {"strategy": "Canary"}}),
    NO_GATEWAY: Case(SPEC | {"gateway": {}}, LIVE | {"gateway": {}}),
    TWO_SIDES: Case({"share": "1.0"}, {"share": "0.001"}),
    SOME_ERROR: Case({"level": "0"}, {"level": "0.2"}),
    ONE_OF_EACH: Case({"personas": [persona("a"), persona("a")]}, {"personas": [persona("a"), persona("b")]}),
    SHARES: Case(
        {"personas": [persona("a", "0.2"), persona("b", "0.101")]}, {"personas": [persona(name) for name in "abc"]}
    ),
    OWN_CONVERSATIONS: Case({"maxExploration": "1"}, {"maxExploration": "0.999"}),
    ROOM: Case(
        {"journalVolume": {"storage": "1023Mi"}},
        {"journalVolume": {"storage": "100M"}, "journalBytes": 100_000_000},
    ),
    WARM: Case(persona("a") | {"temperature": "2.01"}, persona("a") | {"temperature": "2"}),
    IN_ORDER: Case({"minConversations": 9, "maxConversations": 8}, {"minConversations": 9, "maxConversations": 9}),
    ONE_ITERATION: Case(LOGGED | {"iterations": {"max": 2}}, LOGGED),
    NO_DEMONSTRATIONS: Case(LOGGED | {"warmStart": {"demonstrations": 1}}, LOGGED),
    NO_CUSTOMERS: Case(
        LOGGED | {"evaluate": {"gate": {"minAcceptance": "0.5"}}}, LOGGED | {"evaluate": {"gate": {"maxKl": "1"}}}
    ),
    WINDOW: Case(LOG | {"window": "14d"}, LOG | {"window": "14d", "outcomes": "s3://a/b"}),
    WHOLE_RETURNS: Case({"method": "MonteCarlo", "traceLambda": "0.5"}, {"method": "MonteCarlo", "traceLambda": "1.0"}),
    "allowed is exactly one of conversations and demonstrations": Case({"epochs": 1}, {"demonstrations": 1}),
    "allowed is at most conversations": Case(ENVIRONMENT | {"parallelism": 5}, ENVIRONMENT | {"parallelism": 4}),
    OWN_TURNS: Case(ENVIRONMENT | {"exploration": "1.0"}, ENVIRONMENT | {"exploration": "0.99"}),
    HOTTEST: Case(
        ENVIRONMENT | {"sampler": "VLLM", "exploration": "0.1", "explorationTemperature": "2.01"},
        ENVIRONMENT | {"sampler": "VLLM", "exploration": "0.1", "explorationTemperature": "2.0", "temperature": "2"},
    ),
    DRAWN_ONCE: Case({"sampler": "VLLM"}, {"sampler": "VLLM", "algorithm": "PPO"}),
    TWO: Case({"algorithm": "RLOO", "samplesPerState": 1}, {"algorithm": "MPOThenPPO", "samplesPerState": 1}),
    NO_BONUS: Case(
        {"algorithm": "RLOO", "entropyCoefficient": "0.01"}, {"algorithm": "RLOO", "entropyCoefficient": "0.0"}
    ),
    ONE_NODE: Case(
        SPEC | {"improve": {"algorithm": "GRPO"}, "pods": {"improve": {"nodes": 2}}},
        SPEC | {"improve": {"algorithm": "MPO"}, "pods": {"improve": {"nodes": 2}}},
    ),
    'allowed is above "0" and below "1": some train, others measure': Case({"holdout": "1.0"}, {"holdout": "0.99"}),
    "allowed are segments of letters, digits, '.', '_', '=' and '-' joined by '/', none starting with a dot": Case(
        {"bucket": "abc", "prefix": "a/.b"}, {"bucket": "abc", "prefix": "a/b."}
    ),
    "allowed with encryption SSE-KMS only": Case(
        {"bucket": "abc", "kmsKeyId": "alias/a", "encryption": "SSE-S3"},
        {"bucket": "abc", "kmsKeyId": "alias/a", "encryption": "SSE-KMS"},
    ),
    "approves and rejects the same iteration; give one of the two": Case(
        {"approve": 2, "reject": 2}, {"approve": 2, "reject": 1}
    ),
    "allowed is exactly one of secretKeyRef and configMapKeyRef": Case(
        {"secretKeyRef": KEY, "configMapKeyRef": KEY}, {"configMapKeyRef": KEY}
    ),
    "allowed is exactly one of value and valueFrom": Case(VALUE | {"valueFrom": {"secretKeyRef": KEY}}, VALUE),
    "this variable is set by the operator": Case(
        VALUE | {"name": "IPPO_VLLM_ARGS_"}, VALUE | {"name": "IPPO_VLLM_ARGS"}
    ),
    "without a key, operator must be Exists": Case({"value": "x"}, {"operator": "Exists"}),
    "operator Exists takes any value; leave value out": Case(
        {"key": "a", "operator": "Exists", "value": "x"}, {"key": "a", "operator": "Equal", "value": "x"}
    ),
    "allowed is exactly one of persistentVolumeClaim, secret, configMap, emptyDir": Case(
        DIRECTORY | {"configMap": {"name": "c"}}, DIRECTORY
    ),
    "the operator provides this folder; take another one": Case(
        DIRECTORY | {"mountPath": "//ippo/./x"}, DIRECTORY | {"mountPath": "/ippos"}
    ),
    "allowed are a mountPath and a relative subPath without ..": Case(
        DIRECTORY | {"subPath": "a/../b"}, DIRECTORY | {"subPath": "a..b"}
    ),
    NOT_YOURS: Case(
        {"labels": {"kueue.x-k8s.io/queue-name": "q"}, "annotations": {"a.ippo.dev/b": "c"}},
        {"labels": {"notippo.dev/x": "q"}, "annotations": {"kueue.x-k8s.io/podset-required-topology": "c"}},
    ),
}
NAME = f"metadata.name: allowed are {RUN_NAME_WORDS}"


def schema() -> dict[str, Any]:
    [version] = custom_resource_definition()["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def rules(node: dict[str, Any], path: str = "") -> Iterator[Place]:
    """All rules of a schema, with where they stand."""
    for rule in node.get("x-kubernetes-validations", ()):
        yield Place(path, rule["message"])
    for name, child in node.get("properties", {}).items():
        yield from rules(child, f"{path}.{name}".removeprefix("."))
    if "items" in node:
        yield from rules(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from rules(node["additionalProperties"], f"{path}{{}}")


PLACES = sorted({place for place in rules(schema()) if place.path})


def document(path: str, value: dict[str, Any]) -> dict[str, Any]:
    """A good run with the value at that place; entries of lists on the way are as short as may be."""
    live = re.match(r"spec\.(gateway|collect\.logged)\b", path) is not None
    document = copy.deepcopy(GOOD | {"spec": LIVE} if live else GOOD)
    place: Any = document
    *parents, last = re.findall(r"[^.\[\]]+|\[\]", path)
    for part, following in itertools.pairwise([*parents, last]):
        fresh: Any = [] if following == "[]" else {"name": "A"} if part == "[]" else {}
        if part == "[]":
            place.append(fresh)
            place = fresh
        else:
            place = place.setdefault(part, fresh)
    if last == "[]":
        place.append(value)
    else:
        place[last] = copy.deepcopy(ENVIRONMENT | value if path == "spec.collect.simulate" else value)
    return document


def test_every_rule_of_the_crd_has_a_case() -> None:
    assert {place.message for place in PLACES} == set(CASES)
    at_the_root = {place.message for place in rules(schema()) if not place.path}
    assert {message for message in at_the_root if not message.startswith(NAME)} == {IMMUTABLE, ONLY_RISES}
    assert len(PLACES) > 60


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_rule_refuses_and_lets_pass(api: Api, place: Place) -> None:
    case = CASES[place.message]
    answer = api.create(TRY, document(place.path, case.breaks))
    assert answer.code == 422, answer.body
    assert place.message in answer.message
    field = place.path.replace("[]", "[0]")
    assert field in answer.message
    answer = api.create(TRY, document(place.path, case.holds))
    assert answer.code == 201, answer.message


def test_the_rule_of_names_refuses_and_lets_pass(api: Api) -> None:
    for name, code in (("a-1", 201), ("1-a", 422)):
        answer = api.create(TRY, GOOD | {"metadata": {"name": name}})
        assert answer.code == code, answer.message
        assert code == 201 or NAME in answer.message
