"""`ippo version`."""

from argparse import Namespace
from importlib.metadata import version


def line() -> str:
    """The name and version of the installed package."""
    return f"ippo {version('iterative-ppo')}"


def command(_: Namespace) -> int:
    """Prints it."""
    print(line())
    return 0
