"""`ippo` in this process."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from ippo_operator.cli.main import main


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Ippo = Callable[..., Said]


def ippo_command(capsys: pytest.CaptureFixture[str]) -> Ippo:
    """A function that runs a command and returns what it said; no command ends in a traceback."""

    def run(*arguments: str) -> Said:
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(str(error.code))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    return run
