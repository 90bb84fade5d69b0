"""What the command lines of this project have in common."""

import argparse
import sys
from typing import NoReturn

from ippo_trainer.contract.errors import BAD_SPEC

RENDEZVOUS_PORT = 29500
"""Where the first of several pods that train together listens."""
POD_LOG = "/dev/termination-log"
"""In a pod: where a stage writes its result or its error, for the kubelet to read."""


class Parser(argparse.ArgumentParser):
    """Wrong usage is a wrong spec: exit code 64, not argparse's 2."""

    def error(self, message: str) -> NoReturn:
        """One line, after the usage."""
        self.print_usage(sys.stderr)
        self.exit(BAD_SPEC, f"{self.prog}: {message}\n")
