"""Where a run's artifacts are: a folder that its status names, so that a run restored from a backup finds them again.

A new run's folder is `<name>/<UID>`, which no other run ever had. A run that is restored has another UID; its status
still names the folder, and whose it was.
"""

import re

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import ArtifactsStatus, RunStatus

_UID = "[A-Za-z0-9][A-Za-z0-9-]{0,63}"


def own_folder(name: str, uid: str) -> str:
    """Of a run that was not restored."""
    return f"{name}/{uid}"


def folder(run: IterativePPORun) -> str:
    """Below spec.artifacts.s3.prefix. Operators up to 0.2 did not write it down; theirs was the run's own."""
    recorded = run.status.artifacts if run.status is not None else None
    return recorded.folder if recorded is not None else own_folder(run.metadata.name, run.metadata.uid)


def restored(run: IterativePPORun) -> bool:
    """Whether the status was another object's, and this one has not taken over yet."""
    recorded = run.status.artifacts if run.status is not None else None
    return recorded is not None and recorded.owner != run.metadata.uid


def problem(run: IterativePPORun) -> str | None:
    """Why the folder cannot be this run's; None where it can. A status never leads out of the run's own name."""
    place, name = folder(run), run.metadata.name
    if re.fullmatch(f"{re.escape(name)}/{_UID}", place):
        return None
    return (
        f"status.artifacts.folder is {place}, but the artifacts of a run called {name} are in {name}/<UID>: its "
        "status is another run's. Delete this run, and restore that one under its own name"
    )


def claimed(run: IterativePPORun, status: RunStatus) -> RunStatus:
    """The status of the run that writes there from now on. What an object before it had running went with it."""
    if run.spec.artifacts is None:
        return status
    claim = ArtifactsStatus(folder=folder(run), owner=run.metadata.uid)
    return status.model_copy(update={"artifacts": claim, "active": None if restored(run) else status.active})
