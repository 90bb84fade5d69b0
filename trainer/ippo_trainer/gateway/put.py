"""`python -m ippo_trainer.gateway.put`: brings into the store what a gateway that comes no more left in its journal."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ippo_trainer.contract.command_line import Parser
from ippo_trainer.contract.errors import StageError
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.http.arguments import place
from ippo_trainer.live.journal import Journal
from ippo_trainer.live.segments import Uploader
from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.logs.stderr import logging_to_stderr
from ippo_trainer.store import open_store

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 once the journal is empty, or that of the stage contract."""
    arguments = _parser().parse_args(argv)
    with logging_to_stderr(Redactor()):
        try:
            put(arguments.journal, arguments.log)
        except StageError as error:
            _log.error("%s", error)
            return error.exit_code
    return 0


def put(directory: Path, log: StoreLocation) -> None:
    """Returns once all events of a journal are in the store, however long that takes. To be killed meanwhile loses
    nothing.

    Args:
        directory: of the journal. Events in it were redacted before they were written.
        log: the folder of segments.

    Raises:
        BadSpecError: another process has the journal, or the directory cannot be used.
        TryAgainError: a broken disk.
    """
    journal = Journal(directory)
    try:
        uploader = Uploader(journal, open_store(log))
        _log.info("%d bytes of events are to be put into the store", journal.figures().waiting_bytes)
        uploader.finish()
        _log.info("all events are in the store: %d segments", uploader.figures.segments)
    finally:
        journal.close()
        journal.release()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m ippo_trainer.gateway.put", description=__doc__)
    parser.add_argument("--journal", type=Path, required=True, metavar="DIR", help="of a gateway that has ended")
    parser.add_argument("--log", type=place, required=True, metavar="URI", help="as of ippo-gateway")
    return parser


if __name__ == "__main__":
    sys.exit(main())
