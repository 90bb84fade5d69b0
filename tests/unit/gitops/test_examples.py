"""The examples fit the rest of the repository."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.api.load import load_run

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "gitops"


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / path).read_text()))


def test_the_run_is_valid_and_protected_from_both_tools() -> None:
    run = load_run((EXAMPLES / "runs" / "shop-assistant.yaml").read_text())
    assert run.spec.artifacts is not None
    assert run.metadata.annotations == {
        "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
    }
    assert "suspend" not in (EXAMPLES / "runs" / "shop-assistant.yaml").read_text().split("spec:")[1]


def test_the_folder_of_runs_names_its_files() -> None:
    [kustomization] = documents("runs/kustomization.yaml")
    found = {path.name for path in (EXAMPLES / "runs").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == found


@pytest.mark.parametrize("name", ["operator", "runs"])
def test_argo_cd_is_given_what_is_there(name: str) -> None:
    [application] = documents(f"argocd/{name}.yaml")
    source = application["spec"]["source"]
    assert (ROOT / source["path"] if name == "operator" else EXAMPLES / source["path"]).is_dir()
    values = yaml.safe_load((ROOT / "charts" / "ippo-operator" / "values.yaml").read_text())
    for key, value in source.get("helm", {}).get("valuesObject", {}).items():
        assert key in values
        assert not isinstance(value, dict) or set(value) <= set(values[key])


def test_flux_is_given_what_is_there() -> None:
    _, kustomization = documents("flux/operator.yaml")
    spec = kustomization["spec"]
    [named] = yaml.safe_load((ROOT / spec["path"] / "kustomization.yaml").read_text())["resources"]
    made = list(yaml.safe_load_all((ROOT / spec["path"] / named).read_text()))
    [deployment] = [item for item in made if item["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert [image["name"] for image in spec["images"]] == [container["image"].rpartition(":")[0]]
    [patch] = [patch for patch in spec["patches"] if patch["target"]["kind"] == "Deployment"]
    assert patch["target"]["name"] == deployment["metadata"]["name"]
    checked, replaced = yaml.safe_load(patch["patch"])
    assert checked["path"] == replaced["path"] == "/spec/template/spec/containers/0/args/0"
    assert container["args"][0] == checked["value"]
    crd = [item for item in made if item["kind"] == "CustomResourceDefinition"]
    assert crd[0]["metadata"]["annotations"]  # the patch adds to them
