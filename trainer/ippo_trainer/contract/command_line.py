"""What the command lines of this project have in common."""

import argparse
import difflib
import re
import sys
from typing import NoReturn

from ippo_trainer.contract.errors import BAD_SPEC

RENDEZVOUS_PORT = 29500
"""Where the first of several pods that train together listens."""
POD_LOG = "/dev/termination-log"
"""In a pod: where a stage writes its result or its error, for the kubelet to read."""
SHARED_FOLDER = "/dev/shm"  # noqa: S108 - a pod's own
"""Memory that the processes of a pod share; 64 MiB, unless a volume is mounted there."""


class Parser(argparse.ArgumentParser):
    """Wrong usage is a wrong spec: exit code 64, not argparse's 2."""

    def error(self, message: str) -> NoReturn:
        """One line, after the usage; of choices that nobody offers, the nearest."""
        match = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if match is not None:
            near = difflib.get_close_matches(match[1], re.findall(r"[\w.-]+", match[2]), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.print_usage(sys.stderr)
        self.exit(BAD_SPEC, f"{self.prog}: {message}\n")
