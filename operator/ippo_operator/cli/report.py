"""`ippo report`: the run as one HTML file."""

from argparse import Namespace
from pathlib import Path

from ippo_trainer.contract.errors import StageError

from ippo_operator.cli.errors import CommandError
from ippo_operator.local.folder import FolderError, RunFolder


def command(arguments: Namespace) -> int:
    """Writes the report of a run, finished or not."""
    folder = RunFolder(Path(arguments.folder))
    output = Path(arguments.out) if arguments.out else folder.path / "report.html"
    print(write_report_of(folder, output))
    return 0


def write_report_of(folder: RunFolder, output: Path) -> Path:
    """Writes the report and returns its path; raises CommandError if that cannot be done."""
    try:
        run = folder.read()
        location = folder.store(run)
        from ippo_trainer.report import write_report
        from ippo_trainer.store import open_store

        manifest = run.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
        write_report(open_store(location), output, manifest)
    except FolderError as error:
        raise CommandError(str(error)) from None
    except ImportError as error:
        text = f"{error}: this needs the trainer; pip install 'iterative-ppo[trainer]'"
        raise CommandError(text) from None
    except StageError as error:
        raise CommandError(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from None
    return output
