"""`ippo-operator`: the entry point. Help and wrong flags do not wait for the Kubernetes client to load."""

import sys
from collections.abc import Sequence

from ippo_operator.cluster.lean import without_sync_client
from ippo_operator.handlers.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the operator until it is told to stop, and returns its exit code."""
    options = parse(argv)
    without_sync_client()
    from ippo_operator.handlers import process

    return process.run(options)


if __name__ == "__main__":
    sys.exit(main())
