"""What counts as a difference between what was applied and what is there."""

from typing import Any

import pytest
from ippo_operator.manifests.same import holds

SAME: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": {}}, {}),
    ({"value": ""}, {}),
    ([{"name": "x", "image": "i"}], [{"name": "sidecar"}, {"name": "x", "image": "i", "pull": "Always"}]),
    ({"cpu": "0.5"}, {"cpu": "500m"}),
    ({"memory": "1024Mi"}, {"memory": "1Gi"}),
    ({"memory": "1000M"}, {"memory": "1G"}),
    (["a", "b"], ["a", "b"]),
    ([{"port": 1}], [{"port": 1, "nodePort": 3}]),
]
DIFFERENT: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {}),
    ({"a": 0}, {}),
    ({"a": {"b": 1}}, {"a": None}),
    ([{"name": "x", "image": "i"}], [{"name": "x", "image": "j"}]),
    ([{"name": "x"}], []),
    (["a"], ["a", "b"]),
    (["a", "b"], ["b", "a"]),
    ({"cpu": "1"}, {"cpu": "1m"}),
    ("sha256:1", "sha256:2"),
]


@pytest.mark.parametrize(("wanted", "found"), SAME)
def test_defaults_additions_and_spelling_are_no_difference(wanted: Any, found: Any) -> None:
    assert holds(wanted, found)


@pytest.mark.parametrize(("wanted", "found"), DIFFERENT)
def test_what_was_applied_and_is_not_there_is_one(wanted: Any, found: Any) -> None:
    assert not holds(wanted, found)
