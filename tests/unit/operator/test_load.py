"""Manifests: what is accepted, and that every mistake is one exact line."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ippo_operator.api.load import load_run, parse_run
from ippo_operator.api.problems import ManifestError, Problem
from ippo_trainer.contract.variables import SETTABLE

from tests.kit.manifests import small_manifest, with_field

_FUNNEL = {"name": "sr-funnel", "options": {"horizon": 6}}
GOOD = small_manifest(collect={"simulate": {"environment": _FUNNEL, "conversations": 4}})


def changed(path: str, value: Any) -> dict[str, Any]:
    return with_field(GOOD, path, value)


def complaints(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_run(text)
    return str(caught.value).splitlines()


def test_a_minimal_manifest_gets_its_defaults() -> None:
    run = load_run(yaml.safe_dump(GOOD))
    assert run.metadata.name == "small"
    assert run.spec.discount == "0.95"
    assert run.spec.improve.algorithm is None
    assert run.status is None


def test_what_a_server_added_is_accepted_and_a_status_is_left_out() -> None:
    document = changed("status", {"anything": 1})
    document["metadata"] |= {
        "uid": "u",
        "resourceVersion": "12",
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "generateName": "small-",
        "selfLink": "/apis/ippo.dev/v1alpha1/namespaces/default/iterativepporuns/small",
        "deletionGracePeriodSeconds": 0,
        "labels": {"a": "b"},
    }
    assert load_run(yaml.safe_dump(document)).status is None
    assert load_run(json.dumps(document)).metadata.uid == "u"


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            "spec.discount",
            0.95,
            'spec.discount: given 0.95, allowed is a decimal in quotes from "0" to "1"; write "0.95"',
        ),
        (
            "spec.improve.learningRate",
            1e-05,
            "spec.improve.learningRate: given 1e-05, allowed is a decimal in quotes above zero such as "
            '"0.001"; write "0.00001"',
        ),
        (
            "spec.improve.learningRate",
            "1e-3",
            'spec.improve.learningRate: given "1e-3", allowed is a decimal in quotes above zero such as '
            '"0.001"; write "0.001"',
        ),
        ("spec.discount", "1.5", 'spec.discount: given "1.5", allowed is a decimal in quotes from "0" to "1"'),
        (
            "spec.discount",
            2,
            'spec.discount: given 2, allowed is a decimal in quotes from "0" to "1"; for 2 percent write "0.02"',
        ),
        ("spec.seed", "7", 'spec.seed: given "7", allowed is a whole number from 0 to 9007199254740991; write 7'),
        ("spec.seed", -1, "spec.seed: given -1, allowed is a whole number from 0 to 9007199254740991"),
        (
            "spec.iterations.max",
            3.0,
            "spec.iterations.max: given 3.0, allowed is a whole number from 1 to 1000; write 3",
        ),
        (
            "spec.iterations.max",
            float("nan"),
            "spec.iterations.max: given nan, allowed is a whole number from 1 to 1000",
        ),
        (
            "spec.iterations.max",
            ...,
            "spec.iterations.max: is missing; give a whole number from 1 to 1000 (Iterations)",
        ),
        ("spec.suspend", "yes please", 'spec.suspend: given "yes please", allowed is true or false'),
        ("spec.suspend", None, "spec.suspend: given nothing, allowed is true or false"),
        ("spec.improve", [], "spec.improve: given [], allowed is a section of fields"),
        (
            "spec.improve.algorithm",
            "DPO",
            'spec.improve.algorithm: given "DPO", allowed is one of PPO, MPO, MPOThenPPO, GRPO, RLOO',
        ),
        (
            "spec.evaluate.gate.metric",
            "value",
            'spec.evaluate.gate.metric: given "value", allowed is one of Value, Success; write Value',
        ),
        (
            "spec.collect.simulate.environment.options.horizon",
            6.5,
            "spec.collect.simulate.environment.options.horizon: given 6.5, allowed is text or a whole number or "
            'true or false; write "6.5"',
        ),
        (
            "spec.policy.base",
            "gpt2",
            'spec.policy.base: given "gpt2", allowed is tiny:d64-l2, or a file:// or s3:// address',
        ),
        ("apiVersion", "ippo.dev/v1", 'apiVersion: given "ippo.dev/v1", allowed is ippo.dev/v1alpha1'),
        (
            "metadata.name",
            "../etc",
            'metadata.name: given "../etc", allowed is at most 63 characters: a lower-case letter, then letters, '
            "digits and '-', ending in a letter or digit",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_path_given_and_allowed(path: str, value: Any, line: str) -> None:
    assert complaints(yaml.safe_dump(changed(path, value))) == [line]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("spec.improve.klTaget", "klTarget"),
        ("spec.improve.kl_target", "klTarget"),
        ("spec.policy.max_prompt_tokens", "maxPromptTokens"),
        ("spec.fitq", "fitQ"),
        ("metadata.nmae", "name"),
    ],
)
def test_an_unknown_field_comes_with_a_suggestion(path: str, near: str) -> None:
    [line] = complaints(yaml.safe_dump(changed(path, "1")))
    assert line.startswith(f"{path}: unknown field; did you mean {near}? Allowed here: ")


def test_an_unknown_field_that_resembles_nothing_lists_what_is_allowed() -> None:
    [line] = complaints(yaml.safe_dump(changed("spec.evaluate.zzz", 1)))
    assert line == "spec.evaluate.zzz: unknown field; allowed here: conversations, gate"


def test_all_problems_are_told_at_once() -> None:
    document = changed("spec.seed", "x")
    document["spec"]["foo"] = 1
    document["metadata"]["name"] = "A"
    assert [line.split(":")[0] for line in complaints(yaml.safe_dump(document))] == [
        "metadata.name",
        "spec.seed",
        "spec.foo",
    ]


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            "spec.warmStart",
            {"demonstrations": 10, "conversations": "file:///log.jsonl"},
            "spec.warmStart: given conversations and demonstrations, allowed is exactly one of conversations and "
            "demonstrations",
        ),
        (
            "spec.warmStart",
            {},
            "spec.warmStart: given none, allowed is exactly one of conversations and demonstrations",
        ),
        (
            "spec.warmStart",
            ...,
            "spec.warmStart: is missing; a tiny: base learns its words from warmStart.conversations or "
            "warmStart.demonstrations",
        ),
        (
            "spec.policy.base",
            "hf://a/b",
            'spec.policy.base: given "hf://a/b"; no stage can read hf://; download the model and give file:// or s3://',
        ),
        (
            "spec.warmStart",
            {"conversations": "hf://a/b"},
            'spec.warmStart.conversations: given "hf://a/b"; no stage can read hf://; download the log and '
            "give file:// or s3://",
        ),
        ("spec.discount", "0.0", 'spec.discount: given "0.0", allowed is above "0": at 0 no later outcome counts'),
        (
            "spec.collect.simulate.parallelism",
            5,
            "spec.collect.simulate.parallelism: given 5 with conversations 4, allowed is at most conversations",
        ),
        (
            "spec.collect.simulate.exploration",
            "1.0",
            'spec.collect.simulate.exploration: given "1.0", allowed is below "1": Q is the policy\'s, so some turns '
            "must be its own",
        ),
        (
            "spec.fitQ.holdout",
            "0",
            'spec.fitQ.holdout: given "0", allowed is above "0" and below "1": some train, others measure',
        ),
        (
            "spec.improve",
            {"algorithm": "GRPO", "samplesPerState": 1},
            "spec.improve.samplesPerState: given 1, allowed is 2 or more with GRPO and RLOO, which compare the "
            "suggestions of a state",
        ),
        (
            "spec.improve",
            {"algorithm": "RLOO", "entropyCoefficient": "0.01"},
            'spec.improve.entropyCoefficient: given "0.01", allowed is "0" with RLOO, which has no entropy bonus',
        ),
        (
            "spec.artifacts.s3",
            {"bucket": "bucket", "prefix": "a/../b"},
            "spec.artifacts.s3.prefix: given \"a/../b\", allowed are segments of letters, digits, '.', '_', '=' and "
            "'-' joined by '/', none starting with a dot",
        ),
    ],
)
def test_rules_between_fields(path: str, value: Any, line: str) -> None:
    assert complaints(yaml.safe_dump(changed(path, value))) == [line]


@pytest.mark.parametrize(("algorithm", "nodes", "told"), [("GRPO", 2, True), ("PPO", 2, False), ("RLOO", 1, False)])
def test_trls_trainers_run_on_one_node(algorithm: str, nodes: int, told: bool) -> None:
    document = changed("spec.improve", {"algorithm": algorithm})
    document["spec"].setdefault("pods", {})["improve"] = {"nodes": nodes}
    if not told:
        assert parse_run(document).spec.pods.improve.nodes == nodes
        return
    assert complaints(yaml.safe_dump(document)) == [
        "spec.improve: given algorithm: GRPO, allowed is PPO or MPO with pods.improve.nodes above 1: trl's trainers "
        "run on one process"
    ]


def test_of_our_variables_a_manifest_sets_those_that_are_meant_for_it() -> None:
    def env(name: str) -> dict[str, Any]:
        return changed("spec.pods.serve.env", [{"name": name, "value": '{"max_num_seqs": 8}'}])

    for name in SETTABLE:
        [variable] = parse_run(env(name)).spec.pods.serve.env
        assert variable.name == name
    for name in (*(f"{name}_" for name in SETTABLE), "IPPO_POLICY_DIGEST"):
        with pytest.raises(ManifestError, match=f'given "{name}"; this variable is set by the operator'):
            parse_run(env(name))


def test_other_kinds_and_several_documents() -> None:
    run, other = yaml.safe_dump(GOOD), "kind: ConfigMap\ndata: {a: b}\n"
    second = yaml.safe_dump(changed("metadata.name", "second"))
    assert load_run(f"{other}---\n{run}---\n").metadata.name == "small"
    assert load_run(f"{run}---\n{second}", name="second").metadata.name == "second"
    assert load_run(yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [GOOD]})).metadata.name == "small"
    assert complaints(f"{run}---\n{second}") == [
        "more than one of the IterativePPORuns fits; choose with --name one of: small, second"
    ]
    assert complaints(f"{other}---\nkind: Secret") == [
        "no IterativePPORun among the documents; found: ConfigMap, Secret"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "the file is empty; expected apiVersion: ippo.dev/v1alpha1, kind: IterativePPORun, …"),
        ("- a", 'document 1 is ["a"], not a section of fields'),
        ("a: [b", "not YAML: line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nb: 2\na: 3", "line 3: the key a is given twice, first in line 1"),
        ("1: a", "line 1: the key 1 is not text; put it in quotes"),
        ("a: !!python/object:os.system x", "not YAML: line 1, column 4: could not determine a constructor"),
        ("a: &a\n  b: *a", "document 1 has more than 100000 values or 64 levels with aliases expanded"),
        ("a: " + "x" * 2**20, "the file is larger than 1 MiB"),
        ("[" * 5000 + "]" * 5000, "the file nests more than 64 levels"),
        ("a: !!int abc", 'line 1: "abc" cannot be read as int'),
        ("a: !!bool abc", 'line 1: "abc" cannot be read as bool'),
        ("a: 0b_", 'line 1: "0b_" cannot be read as int'),
        ("a: " + "9" * 5000, 'line 1: "999'),
        ("a: !!binary aGVsbG8=", "not YAML: line 1, column 4: could not determine a constructor"),
        ("a: !!set {b}", "not YAML: line 1, column 4: could not determine a constructor"),
        ("a: !!timestamp b", "not YAML: line 1, column 4: could not determine a constructor"),
        ("a:\n  <<: {b: 1}", "line 2: merge keys (<<) are not supported; write the fields out"),
        ('a: "\\ud800"', 'line 1: "\\ud800" holds half of a character'),
    ],
)
def test_what_is_no_manifest_at_all(text: str, line: str) -> None:
    [found] = complaints(text)
    assert found.startswith(line)


def test_both_halves_of_an_escaped_character_are_one() -> None:
    document = changed("spec.policy.systemPrompt", "\U0001f600")
    assert "\\ud83d\\ude00" in json.dumps(document)
    assert load_run(json.dumps(document)).spec.policy.system_prompt == "\U0001f600"


def test_aliases_cannot_explode() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert complaints("\n".join(rows)) == ["document 1 has more than 100000 values or 64 levels with aliases expanded"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    "metadata",
    "metadata.name",
    "metadata.labels",
    "spec",
    "spec.policy",
    "spec.policy.base",
    "spec.iterations.stopWhen",
    "spec.collect",
    "spec.collect.simulate.environment",
    "spec.collect.simulate.environment.options",
    "spec.improve.klTarget",
    "spec.artifacts",
]


@pytest.mark.parametrize("value", ["1e999999999", "-1e999999999", "1e-999999999"])
def test_a_decimal_without_bounds_is_not_written_out(value: str) -> None:
    with pytest.raises(ManifestError, match=f'given "{value}", allowed is') as caught:
        parse_run(changed("spec.improve.klTarget", value))
    assert len(str(caught.value)) < 300


@given(st.sampled_from(PATHS), json_values)
def test_any_value_anywhere_is_accepted_or_named(path: str, value: Any) -> None:
    problems: Sequence[Problem] = ()
    try:
        parse_run(changed(path, value))
    except ManifestError as error:
        problems = error.problems or pytest.fail("refused without a word")
    for problem in problems:
        assert "\n" not in str(problem)
        assert problem.path.startswith(path.split(".")[0])
