"""The chart as a part of another one: a condition, tags, an alias and what all charts share."""

import shutil
from pathlib import Path

import pytest
import yaml

from .helm import CHART, Manifest, container, helm, need, objects, of_kind

META = yaml.safe_load((CHART / "Chart.yaml").read_text())


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A chart that has ours as `chat` and a ConfigMap of its own."""
    need("helm")
    folder = tmp_path / "platform"
    shutil.copytree(CHART, folder / "charts" / META["name"])
    (folder / "templates").mkdir()
    (folder / "templates" / "own.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")
    part = {
        "name": META["name"],
        "version": META["version"],
        "alias": "chat",
        "condition": "chat.enabled",
        "tags": ["agents"],
    }
    meta = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part]}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(meta))
    return folder


def rendered(parent: Path, values: Manifest, tmp_path: Path) -> list[Manifest]:
    """The objects of the parent and of its parts."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "platform", str(parent), "--namespace=ops", f"--values={file}")
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


@pytest.mark.parametrize(
    ("values", "deployments"),
    [
        ({}, 1),
        ({"chat": {"enabled": True}}, 1),
        ({"chat": {"enabled": False}}, 0),
        ({"tags": {"agents": False}}, 0),
        ({"tags": {"agents": False}, "chat": {"enabled": True}}, 1),
        ({"global": {"storageClass": "fast", "imageRegistry": None, "imagePullSecrets": None}}, 1),
        ({"global": {}, "chat": {"enabled": None, "replicas": 2, "global": {"domain": "example"}}}, 1),
    ],
)
def test_a_condition_tags_and_global_values_are_taken(
    parent: Path, values: Manifest, deployments: int, tmp_path: Path
) -> None:
    assert len(of_kind(rendered(parent, values, tmp_path), "Deployment")) == deployments


def test_a_wrong_value_is_refused_in_a_parent_too(parent: Path) -> None:
    done = helm("template", "platform", str(parent), "--set=chat.replica=2")
    assert (done.returncode, "replica" in done.stderr) == (1, True), done.stderr


def test_the_registry_that_all_charts_share_is_used_unless_there_is_an_own_one(parent: Path, tmp_path: Path) -> None:
    shared = {"global": {"imageRegistry": "registry.example/all", "imagePullSecrets": ["one", {"name": "two"}]}}
    manifests = rendered(parent, shared, tmp_path)
    operator = container(manifests)
    assert operator["image"] == f"registry.example/all/ippo-operator:{META['appVersion']}"
    assert f"--image=registry.example/all/ippo-trainer:{META['appVersion']}-cpu" in operator["args"]
    [deployment] = of_kind(manifests, "Deployment")
    assert deployment["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    own = rendered(parent, shared | {"chat": {"registry": "registry.example/own"}}, tmp_path)
    assert container(own)["image"].startswith("registry.example/own/ippo-operator:")
