"""What may change once a run has started."""

from typing import Any

import pytest
from ippo_operator.api import changes
from ippo_operator.api.changes import IMMUTABLE, ONLY_RISES

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
            f"spec.iterations.max: given 2 instead of 3; this field {ONLY_RISES}",
        ),
        (
            {},
            {"seed": 5},
            f"spec.seed: given 5 instead of 0; this field {IMMUTABLE}",
        ),
        (
            {},
            {"warmStart": {"conversations": "file:///log.jsonl"}},
            f'spec.warmStart.conversations: given "file:///log.jsonl" instead of nothing; this field {IMMUTABLE}',
        ),
        (
            {"artifacts": {"s3": {"bucket": "abc"}}},
            {"artifacts": {"s3": {"bucket": "abc", "encryption": "SSE-S3"}}},
            f'spec.artifacts.s3.encryption: given "SSE-S3" instead of nothing; this field {IMMUTABLE}',
        ),
        (
            {"artifacts": {"s3": {"bucket": "abc"}}},
            {"artifacts": {"s3": {"bucket": "abc", "prefix": "elsewhere"}}},
            f'spec.artifacts.s3.prefix: given "elsewhere" instead of ""; this field {IMMUTABLE}',
        ),
        (
            {},
            {"artifacts": {"s3": {"bucket": "abc"}}},
            f'spec.artifacts.s3.bucket: given "abc" instead of nothing; this field {IMMUTABLE}',
        ),
    ],
)
def test_refused(before: dict[str, Any], after: dict[str, Any], line: str) -> None:
    assert line in lines(before, after)
