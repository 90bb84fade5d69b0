"""What goes wrong while a report is written, of a folder or of a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_trainer.contract.errors import StageError

from ippo_operator.cli.errors import CommandError
from ippo_operator.local.folder import FolderError


@contextmanager
def report_errors(output: Path) -> Iterator[None]:
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
