"""What a wrong manifest is told to do about it: the remedy is there where it can be told, and it is one."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun

from tests.kit.manifests import small_manifest, with_field

GOOD = small_manifest()
LIMITS = "spec.pods.common.resources.limits"
WINDOW = "spec.collect.logged.idle"
HUB = "no stage reaches the hub: download the model and give file:// or s3://"
SAME_WORDS = "at most 63 characters: a lower-case letter, then letters, digits and '-', ending in a letter or digit"


def complaints(document: dict[str, Any]) -> list[str]:
    try:
        parse_run(document)
    except ManifestError as error:
        return str(error).splitlines()
    return []


def said(path: str, value: Any) -> str:
    [line] = [line for line in complaints(with_field(GOOD, path, value)) if line.startswith(path)]
    return line


@pytest.mark.parametrize(
    ("path", "value", "todo"),
    [
        ("spec.warmStart.conversations", "/data/log.jsonl", 'write "file:///data/log.jsonl"'),
        ("spec.policy.base", "/models/qwen", 'write "file:///models/qwen"'),
        ("spec.policy.base", "Qwen/Qwen2.5-0.5B", HUB),
        ("spec.improve.algorithm", "ppo", "write PPO"),
        ("spec.improve.algorithm", "mpo-then-ppo", "write MPOThenPPO"),
        ("spec.promotion.mode", "manual", "write Manual"),
        ("spec.collect.simulate.exploration", "95%", 'write "0.95"'),
        ("spec.collect.simulate.exploration", 20, 'for 20 percent write "0.2"'),
        ("spec.suspend", "true", "write true"),
        ("spec.gateway.journalBytes", "1Gi", "write 1073741824"),
        ("spec.pods.common.activeDeadlineSeconds", "2h", "write 7200"),
        (WINDOW, "2w", 'write "14d"'),
        (WINDOW, "1h30m", 'write "90m"'),
        (WINDOW, "120s", 'write "2m"'),
    ],
)
def test_the_remedy_is_told(path: str, value: Any, todo: str) -> None:
    assert said(path, value).endswith(f"; {todo}")


def test_the_value_of_a_label_is_text() -> None:
    assert said("spec.pods.common.nodeSelector", {"gpu": True}).endswith('; write "true"')


@pytest.mark.parametrize("value", ["90s", "30", "0d", 30])
def test_what_a_span_of_time_is_made_of_is_told(value: Any) -> None:
    assert said(WINDOW, value).endswith(
        'allowed is one whole number from 1 to 999999, then m, h or d for minutes, hours or days, such as "14d"'
    )


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"cpu": -1}, f"{LIMITS}.cpu: given -1, allowed is a whole number from 0 to 9007199254740991 or a quantity "),
        ({"nvidia.com/gpu": 0.5}, f"{LIMITS}.nvidia.com/gpu: given 0.5, allowed is a whole number from 0 to 90071"),
        ({"cpu": 0.5}, f"{LIMITS}.cpu: given 0.5, "),
    ],
)
def test_a_fraction_is_written_in_quotes_where_there_may_be_one(limits: dict[str, Any], line: str) -> None:
    told = said(LIMITS, limits)
    assert told.startswith(line)
    assert ('write "0.5"' in told) == (limits == {"cpu": 0.5})


@pytest.mark.parametrize("ranks", [["16"], [16.0], [0, -3], [16, 0]])
def test_a_list_is_not_too_short_for_what_is_wrong_in_it(ranks: list[Any]) -> None:
    lines = complaints(with_field(GOOD, "spec.fitQ.ranks", ranks))
    assert lines
    assert all(line.startswith("spec.fitQ.ranks[") for line in lines)


def test_a_list_that_is_too_short_is_told_so() -> None:
    assert said("spec.fitQ.ranks", []) == "spec.fitQ.ranks: given [], allowed is a list, from 1 to 8 of them"


def test_a_name_is_described_once() -> None:
    whole = "Child names and artifact paths are made of it"
    assert said("metadata.name", ...) == f"metadata.name: is missing; give {SAME_WORDS} ({whole})"
    assert " (64 characters; at most 63), allowed is" in said("metadata.name", "x" * 64)


def test_the_cause_is_told_without_what_follows_from_it() -> None:
    document = with_field(GOOD, "spec.collect", {})
    [line] = complaints(document)
    assert line.startswith("spec.collect.simulate: is missing; ")


def test_where_a_section_is_out_of_place_the_sentence_is_one() -> None:
    assert said("spec.gateway", {}) == (
        "spec.gateway: given a section of fields, allowed with collect.logged only: without it there is no gateway"
    )
    history = with_field(GOOD, "spec.collect", {"history": {"conversations": "file:///log.jsonl", "window": "14d"}})
    assert 'spec.collect.history.window: given "14d", allowed with outcomes only: it says how long those count' in (
        complaints(with_field(history, "spec.iterations.max", 1) | {})
    )


def _fields(model: Any, path: str) -> Iterator[str]:
    """Paths of all fields that are in no list, sections left out."""
    schema = model.model_json_schema(by_alias=True)

    def walk(node: dict[str, Any], path: str) -> Iterator[str]:
        options = [option for option in node.get("anyOf", [node]) if option.get("type") != "null"]
        if len(options) == 1 and "$ref" in options[0]:
            node = schema["$defs"][options[0]["$ref"].rsplit("/", 1)[-1]]
        if "properties" not in node:
            yield path
        for name, child in node.get("properties", {}).items():
            yield from walk(child, f"{path}.{name}" if path else name)

    yield from walk(schema["properties"]["spec"], path)


FIELDS = list(_fields(IterativePPORun, "spec"))
ODD = [-1, 0, 0.5, 2, 3.0, 50, 1e300, True, "7", "-3", "0.5", "1e-3", "95%", "120%", "2w", "90s", "1Gi", "/a b", "/a"]
ODD += ["true", "ppo", "manual", "a/b", "vllm", "٣"]


@pytest.mark.parametrize("path", FIELDS)
def test_what_is_advised_is_accepted(path: str) -> None:
    """Of every field: whoever writes what the message says is not told that it is wrong, too."""
    for value in ODD:
        for line in complaints(with_field(GOOD, path, value)):
            before, _, advice = line.rpartition("; ")
            if before.startswith(f"{path}: given ") and (text := advice.partition("write ")[2]):
                advised = yaml.safe_load(text)
                again = complaints(with_field(GOOD, path, advised))
                assert not any(other.startswith(f"{path}: given") and "allowed is" in other for other in again), line
