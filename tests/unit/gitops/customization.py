"""The ConfigMap that teaches Argo CD about runs, made from the Lua files.

python -m tests.unit.gitops.customization > charts/ippo-operator/files/argocd/argocd-cm.yaml
"""

import sys
from typing import Any

import yaml

from .lua import ACTIONS, FILES

CONFIG_MAP = FILES / "argocd-cm.yaml"
KIND = "ippo.dev_IterativePPORun"
_HEAD = """\
# Made from the Lua files beside it; not to be edited. It adds two keys to Argo CD's ConfigMap and keeps all others:
#
#   kubectl patch configmap argocd-cm --namespace argocd --patch-file argocd-cm.yaml
"""


class _Literal(str):
    """Text that is written as a block."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|"))


def _dump(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=4096))


def actions() -> dict[str, Any]:
    """The value of the actions' key, before it becomes text."""
    folder = FILES / "actions"
    return {
        "discovery.lua": _Literal((folder / "discovery.lua").read_text()),
        "definitions": [
            {"name": name, "action.lua": _Literal((folder / f"{name}.lua").read_text())} for name in ACTIONS
        ],
    }


def to_yaml() -> str:
    """The file."""
    data = {
        f"resource.customizations.health.{KIND}": _Literal((FILES / "health.lua").read_text()),
        f"resource.customizations.actions.{KIND}": _Literal(_dump(actions())),
    }
    metadata = {"name": "argocd-cm", "namespace": "argocd"}
    return _HEAD + _dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


if __name__ == "__main__":
    sys.stdout.write(to_yaml())
