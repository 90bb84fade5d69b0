"""Which tests one process of `pytest -n` takes together: those of a file, or those that share servers slow to start."""

import re
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

from tests.kit.doc_pages import ROOT

_VERSION = re.compile(r"\[(usual|1\.36)[\]-]")


class Shares(LoadFileScheduling):
    """Hands out one share after the other, in the order of the folders."""

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)


def share(nodeid: str) -> str:
    """The name of a test's share.

    A folder of `tests/integration` with fixtures of its own is one share, and one for each version of the API server:
    they start once, and while their tests wait for them, other processes compute.
    """
    file, _, test = nodeid.partition("::")
    folder = Path(file).parent
    if "integration" not in folder.parts or not (ROOT / folder / "conftest.py").exists():
        return file
    version = _VERSION.search(test)
    return f"{folder} {version[1]}" if version else str(folder)
