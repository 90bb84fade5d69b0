"""The quickstart's page as a program: its shell blocks in order, each run in the same shell."""

import dataclasses
import re
import shlex
from pathlib import Path

from tests.kit import doc_pages
from tests.kit.doc_pages import ROOT, Block
from tests.kit.doc_scenes import QUICKSTART

from .kube import Kube

_ASSIGNMENT = re.compile(r"^([A-Z0-9_]+)=.*$", re.MULTILINE)
_MARK = "=== block {} done ==="


def blocks(page: str = QUICKSTART) -> list[Block]:
    """In the order of the page."""
    return doc_pages.shell(page)


def with_settings(block: Block, settings: dict[str, str]) -> Block:
    """The block of settings with other values.

    Raises:
        KeyError: it sets a variable that is not given.
    """
    code = _ASSIGNMENT.sub(lambda match: f"{match.group(1)}={shlex.quote(settings[match.group(1)])}", block.code)
    return dataclasses.replace(block, code=code)


def carry_out(kube: Kube, blocks: list[Block], folder: Path, seconds: float) -> list[str]:
    """Runs blocks in one shell that ends at the first command that fails; what each printed.

    Args:
        kube: the cluster.
        chosen: the blocks.
        folder: gets the log.
        seconds: for all of them.
    """
    script = "".join(f"{block.code}\necho '{_MARK.format(number)}'\n" for number, block in enumerate(blocks))
    log = folder / "quickstart.log"
    log.touch()
    with log.open("w") as out:
        done = kube.script(f"cd {shlex.quote(str(ROOT))}\nset -euo pipefail\n{script}", out, seconds)
    text = log.read_text()
    assert done == 0, f"the quickstart ended with {done}:\n{text[-6000:]}"
    parts = re.split(_MARK.format(r"\d+"), text)
    return [part.strip() for part in parts[: len(blocks)]]
