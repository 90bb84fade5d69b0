"""Who else writes a field of a run: what a GitOps tool applies again, it also undoes again."""

from typing import Any

from ippo_trainer.contract.lines import one_line

from ippo_operator.cluster.remote.runs import MANAGER, Object

_APPLIERS = ("argocd", "kustomize-controller", "helm", "flux", "kubectl-client-side-apply")
"""Managers that write without server-side apply, and come again."""


def owners(run: Object, path: str) -> list[str]:
    """The field managers, other than this command, that may write the field again.

    Args:
        run: as the API server has it.
        path: such as spec.promotion.approve.
    """
    managers = set()
    for entry in run["metadata"].get("managedFields") or ():
        manager = one_line(str(entry.get("manager")))
        comes_again = entry.get("operation") == "Apply" or manager.startswith(_APPLIERS)
        if manager != MANAGER and not entry.get("subresource") and comes_again and _has(entry.get("fieldsV1"), path):
            managers.add(manager)
    return sorted(managers)


def _has(fields: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(fields, dict) or f"f:{part}" not in fields:
            return False
        fields = fields[f"f:{part}"]
    return True


def warning(run: Object, path: str) -> str | None:
    """A sentence for whoever changes the field, if somebody else may change it back."""
    managers = owners(run, path)
    if not managers:
        return None
    return (
        f"{path} is also written by {', '.join(managers)}: its next sync or apply may undo this; "
        "make the same change where it takes its manifests from"
    )
