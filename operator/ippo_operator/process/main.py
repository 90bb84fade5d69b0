"""`ippo-operator`: the entry point. Help and wrong flags do not wait for kopf to load."""

import sys
from collections.abc import Sequence

from ippo_operator.process.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the operator until it is told to stop, and returns its exit code."""
    options = parse(argv)
    from ippo_operator.process import operator

    return operator.run(options)


if __name__ == "__main__":
    sys.exit(main())
