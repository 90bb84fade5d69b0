"""What goes wrong while a report is written, of a folder or of a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.trainer import trainer_errors


@contextmanager
def report_errors(output: Path) -> Iterator[None]:
    """As a CommandError."""
    with trainer_errors():
        try:
            yield
        except OSError as error:
            raise CommandError(f"cannot write {output}: {error.strerror}") from None
