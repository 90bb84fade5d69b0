"""`ippo run`: the whole cycle on this machine."""

import signal
import sys
from argparse import Namespace
from pathlib import Path

from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import LastFailure
from ippo_operator.cli import errors
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.manifests import explain, read_manifest
from ippo_operator.cli.report.folder import write_report_of
from ippo_operator.cli.run.console import Console
from ippo_operator.cli.trainer import check_trainer
from ippo_operator.cli.validate.checks import findings
from ippo_operator.local.folder import FolderError, FolderInUseError, RunFolder
from ippo_operator.local.live.gateway import PortTakenError
from ippo_operator.local.runner import Runner, Signals
from ippo_operator.plan.phase import Phase


def command(arguments: Namespace) -> int:
    """Begins or resumes a run and stays with it until it is at rest."""
    keys = Path(arguments.keys) if arguments.keys else None
    return drive(RunFolder(Path(arguments.out)), read_manifest(arguments.file, arguments.name), arguments.file, keys)


def drive(folder: RunFolder, manifest: IterativePPORun, source: str, keys: Path | None = None) -> int:
    """Stays with a run until it is at rest, and writes its report.

    Args:
        folder: of the run.
        manifest: what it should be.
        source: where the manifest is from, for errors.
        keys: of its gateway.
    """
    check_trainer()
    _check_keys(manifest, keys)
    console = Console()
    try:
        with folder.lock(), Signals() as signals:
            if not folder.begun:
                for finding in findings(manifest):
                    console.line(f"! {finding.text}")
            console.line(f"{manifest.metadata.name} in {folder.path}; loading the stages takes some seconds")
            phase = Runner(folder, console, signals).run(manifest, keys)
            console.close()
            return _end(folder, console, phase, signals)
    except ManifestError as error:
        raise CommandError(explain(source, error)) from None
    except (FolderInUseError, PortTakenError) as error:
        raise CommandError(str(error), errors.TRY_AGAIN) from None
    except FolderError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror}{where}; once that is mended, the same command goes on"
        raise CommandError(text, errors.TRY_AGAIN) from None


def _check_keys(manifest: IterativePPORun, keys: Path | None) -> None:
    """A gateway that is to have keys never goes without."""
    gateway = manifest.spec.gateway
    if keys is not None and manifest.spec.collect.logged is None:
        raise CommandError("--keys is for runs with spec.collect.logged: they alone have a gateway")
    if keys is not None and not keys.is_file():
        raise CommandError(f"--keys: there is no file {keys}")
    if keys is None and gateway is not None and gateway.keys_secret_name is not None:
        raise CommandError(
            f"spec.gateway.keysSecretName names a Secret, {gateway.keys_secret_name}, which this machine has none of; "
            "give its lines with --keys FILE"
        )


def _end(folder: RunFolder, console: Console, phase: Phase | None, signals: Signals) -> int:
    if phase is None:
        console.line("stopped; the same command resumes")
        return errors.TERMINATED if signals.last == signal.SIGTERM else errors.INTERRUPTED
    if phase.at_rest and not phase.ended:
        return errors.OK
    run = folder.read()
    try:
        console.line(f"report: {write_report_of(folder, folder.path / 'report.html')}")
    except CommandError as error:  # the run is what it is without its report
        console.line(f"! no report: {error}")
    if phase.name == "Succeeded":
        sys.stdout.write(f"{run.metadata.name}: {phase.message}\n")
        return errors.OK
    if not console.warned:  # it stalled in an earlier session, and this one had nothing to report
        console.line(f"! {phase.reason}: {phase.message}")
    failure = run.status.last_failure if run.status is not None else None
    if failure is not None:
        console.line(f"logs: {folder.jobs / failure.job_name}")
    return _code(failure)


def _code(failure: LastFailure | None) -> int:
    """The exit code of a run that stalled: the stage's own where it has a meaning."""
    meaningful = {errors.BAD_INPUT, errors.BAD_DATA, errors.TRY_AGAIN}
    if failure is not None and failure.kind == "Uninformative":
        return errors.BAD_DATA
    return failure.exit_code if failure is not None and failure.exit_code in meaningful else errors.FAILED
