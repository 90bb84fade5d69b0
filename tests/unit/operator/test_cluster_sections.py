"""Cluster sections of a manifest: a local run takes them in its stride, and their mistakes are exact lines."""

from typing import Any

import pytest
from ippo_operator.api import changes
from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError

from tests.kit.planner_world import make_run

POD = "spec.pods.improve"


def lines(**spec: Any) -> list[str]:
    whole = make_run().spec.model_dump(mode="json", by_alias=True, exclude_none=True) | spec
    document = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "small"}}
    try:
        parse_run({**document, "spec": whole})
    except ManifestError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("pods", "line"),
    [
        ({"env": [{"name": "A"}]}, f"{POD}.env[0]: given none, allowed is exactly one of value and valueFrom"),
        (
            {"env": [{"name": "HOME", "value": "/x"}]},
            f'{POD}.env[0].name: given "HOME"; this variable is set by the operator',
        ),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
            f'{POD}.env: "A" is given twice',
        ),
        (
            {"env": [{"name": "A", "valueFrom": {}}]},
            f"{POD}.env[0].valueFrom: given none, allowed is exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            {"volumes": [{"name": "a", "mountPath": "/a", "emptyDir": {}, "secret": {"secretName": "s"}}]},
            f"{POD}.volumes[0]: given secret and emptyDir, allowed is exactly one of persistentVolumeClaim, secret, "
            "configMap, emptyDir",
        ),
        (
            {"volumes": [{"name": "a", "mountPath": "/ippo/work", "emptyDir": {}}]},
            f'{POD}.volumes[0].mountPath: given "/ippo/work"; the operator provides this folder; take another one',
        ),
        (
            {"volumes": [{"name": "a", "mountPath": "/a", "subPath": "../b", "emptyDir": {}}]},
            f"{POD}.volumes[0]: allowed are a mountPath and a relative subPath without ..",
        ),
        (
            {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
            f'{POD}.labels: given "kueue.x-k8s.io/queue-name"; ippo.dev/…, kueue.x-k8s.io/… but podset-…, '
            "batch.kubernetes.io/…, app.kubernetes.io/component and security profiles are not yours to set",
        ),
        (
            {"tolerations": [{"value": "x"}]},
            f"{POD}.tolerations[0]: without a key, operator must be Exists",
        ),
        (
            {"resources": {"limits": {"cpu": 0.5}}},
            f"{POD}.resources.limits.cpu: given 0.5, allowed is a whole number from 0 to 9007199254740991 or a "
            'quantity such as 500m, 2, 8Gi; write "0.5"',
        ),
        (
            {"sharedMemory": "lots"},
            f'{POD}.sharedMemory: given "lots", allowed is a quantity such as 500m, 2, 8Gi',
        ),
    ],
)
def test_a_wrong_pod_setting_is_one_line(pods: dict[str, Any], line: str) -> None:
    assert lines(pods={"improve": pods}) == [line]


def test_both_answers_at_once_are_none() -> None:
    assert lines(promotion={"approve": 1, "reject": 1}) == [
        "spec.promotion: approves and rejects the same iteration; give one of the two"
    ]


def test_how_a_run_is_run_may_change_at_any_time() -> None:
    before = make_run()
    after = make_run(
        pods={"common": {"image": "other"}},
        queue={"localQueueName": "q"},
        serve={},
        cleanup={"failedSeconds": 1},
        promotion={"approve": 1},
        serviceAccountName="x",
    )
    assert changes.problems(before.spec, after.spec) == []
    [problem] = changes.problems(before.spec, make_run(promotion={"mode": "Manual"}).spec)
    assert problem.path == "spec.promotion.mode"
