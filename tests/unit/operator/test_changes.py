"""What may change once a run has started."""

from typing import Any

import pytest
from ippo_operator.api import changes

from tests.kit.planner_world import make_run

MOVED = {"endpointUrl": "http://new:9000", "region": "eu-central-1", "credentialsSecretName": "new"}


def lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in changes.problems(make_run(**before).spec, make_run(**after).spec)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({}, {"suspend": True}),
        ({"suspend": True}, {}),
        ({"iterations": {"max": 2}}, {"iterations": {"max": 3}}),
        ({}, {"retries": {"crashes": 9, "tryAgain": 9, "disruptions": 900}}),
        ({"artifacts": {"s3": {"bucket": "abc"}}}, {"artifacts": {"s3": {"bucket": "abc"} | MOVED}}),
        ({"artifacts": {"s3": {"bucket": "abc"} | MOVED}}, {"artifacts": {"s3": {"bucket": "abc"}}}),
    ],
)
def test_allowed(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert lines(before, after) == []


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            {"iterations": {"max": 3}},
            {"iterations": {"max": 2}},
            "spec.iterations.max: given 2, but the run started with 3 and this field may only rise",
        ),
        (
            {},
            {"seed": 5},
            "spec.seed: given 5, but the run started with 0 and this field is immutable since; put it back or start a "
            "new run",
        ),
        (
            {},
            {"warmStart": {"conversations": "file:///log.jsonl"}},
            'spec.warmStart.conversations: given "file:///log.jsonl", but the run started with nothing and this '
            "field is immutable since; put it back or start a new run",
        ),
        (
            {"artifacts": {"s3": {"bucket": "abc"}}},
            {"artifacts": {"s3": {"bucket": "abc", "encryption": "SSE-S3"}}},
            'spec.artifacts.s3.encryption: given "SSE-S3", but the run started with nothing and this field is '
            "immutable since; put it back or start a new run",
        ),
        (
            {"artifacts": {"s3": {"bucket": "abc"}}},
            {"artifacts": {"s3": {"bucket": "abc", "prefix": "elsewhere"}}},
            'spec.artifacts.s3.prefix: given "elsewhere", but the run started with "" and this field is immutable '
            "since; put it back or start a new run",
        ),
        (
            {},
            {"artifacts": {"s3": {"bucket": "abc"}}},
            'spec.artifacts.s3.bucket: given "abc", but the run started with nothing and this field is immutable '
            "since; put it back or start a new run",
        ),
    ],
)
def test_refused(before: dict[str, Any], after: dict[str, Any], line: str) -> None:
    assert line in lines(before, after)
