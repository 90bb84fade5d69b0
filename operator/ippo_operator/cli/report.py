"""`ippo report`: the run as one HTML file, of a folder or of a cluster."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_trainer.contract.errors import StageError

from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.place import is_folder
from ippo_operator.local.folder import FolderError, RunFolder


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    if not is_folder(arguments, arguments.run):
        from ippo_operator.cli.remote import report as in_cluster

        return in_cluster.command(arguments)
    if arguments.endpoint_url or arguments.credentials_from_secret:
        raise CommandError("--endpoint-url and --credentials-from-secret are for runs in a cluster, not for folders")
    folder = RunFolder(Path(arguments.run))
    output = Path(arguments.out) if arguments.out else folder.path / "report.html"
    print(write_report_of(folder, output))
    return 0


def write_report_of(folder: RunFolder, output: Path) -> Path:
    """Writes the report and returns its path; raises CommandError if that cannot be done."""
    with errors(output):
        run = folder.read()
        location = folder.store(run)
        from ippo_trainer.report import write_report
        from ippo_trainer.store import open_store

        manifest = run.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
        write_report(open_store(location), output, manifest)
    return output


@contextmanager
def errors(output: Path) -> Iterator[None]:
    """What goes wrong while a report is written, as a CommandError."""
    try:
        yield
    except FolderError as error:
        raise CommandError(str(error)) from None
    except ImportError as error:
        text = f"{error}: this needs the trainer; pip install 'iterative-ppo[trainer]'"
        raise CommandError(text) from None
    except StageError as error:
        raise CommandError(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from None
