"""Runs in folders of this machine, as the command line names them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import TRY_AGAIN, CommandError
from ippo_operator.cli.run_view import RunView
from ippo_operator.local.folder import FolderError, FolderInUseError, RunFolder
from ippo_operator.plan.conditions import conditions
from ippo_operator.plan.phase import phase


@dataclass(frozen=True)
class FolderRun:
    """A run that was read from its folder."""

    folder: RunFolder
    manifest: IterativePPORun
    """With its status."""
    view: RunView
    """With the conditions of this moment."""
    runner_active: bool

    @property
    def status(self) -> RunStatus:
        """What is recorded of the run."""
        return self.view.status


def open_folder(path: str) -> FolderRun:
    """The run in a folder. Raises CommandError if there is none, or it cannot be read."""
    return read(RunFolder(Path(path)))


def amend(folder: RunFolder, promotion: dict[str, Any]) -> FolderRun:
    """Writes fields of spec.promotion into the run, unless a runner is at work; it would not read them.

    Raises:
        CommandError: a runner is at work, or the folder cannot be written.
    """
    try:
        with folder.lock():
            run = folder.read()
            changed = run.spec.promotion.model_copy(update=promotion)
            folder.change(run, run.spec.model_copy(update={"promotion": changed}))
    except FolderInUseError as error:
        raise CommandError(f"{error}; stop it with Ctrl-C first", TRY_AGAIN) from None
    except FolderError as error:
        raise CommandError(str(error)) from None
    return read(folder)


def read(folder: RunFolder) -> FolderRun:
    """As `open_folder`."""
    try:
        active = folder.busy()  # before the run is read: what the runner wrote last is in it
        run = folder.read()
    except FolderError as error:
        raise CommandError(str(error)) from None
    now, status = datetime.now(UTC), run.status or RunStatus()
    current = conditions(run, status, phase(run.spec, status, now), now)
    raw = run.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
    view = RunView(raw, status.model_copy(update={"conditions": current}), str(folder.path))
    return FolderRun(folder, run, view, active)
