"""The quickstart's page as a program: its shell blocks in order, each run in the same shell."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from .kube import Kube
from .place import ROOT

PAGE = ROOT / "docs" / "quickstart.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"^([A-Z0-9_]+)=.*$", re.MULTILINE)
_MARK = "=== block {} done ==="


@dataclass(frozen=True)
class Block:
    """A shell block of the page.

    Args:
        section: the heading above it.
    """

    section: str
    code: str


def blocks(page: Path = PAGE) -> list[Block]:
    """In the order of the page."""
    text = page.read_text()
    headings = [(found.start(), found.group(1)) for found in _HEADING.finditer(text)]
    return [
        Block(max((place, name) for place, name in headings if place < found.start())[1], found.group(1))
        for found in _BLOCK.finditer(text)
    ]


def with_settings(code: str, settings: dict[str, str]) -> str:
    """The block of settings with other values.

    Raises:
        KeyError: it sets a variable that is not given.
    """
    return _ASSIGNMENT.sub(lambda found: f"{found.group(1)}={shlex.quote(settings[found.group(1)])}", code)


def carry_out(kube: Kube, chosen: list[Block], folder: Path, seconds: float) -> list[str]:
    """Runs blocks in one shell that ends at the first command that fails; what each printed.

    Args:
        kube: the cluster.
        chosen: the blocks.
        folder: gets the log.
        seconds: for all of them.
    """
    script = "".join(f"{block.code}\necho '{_MARK.format(number)}'\n" for number, block in enumerate(chosen))
    log = folder / "quickstart.log"
    log.touch()
    with log.open("w") as out:
        done = kube.script(f"cd {shlex.quote(str(ROOT))}\nset -euo pipefail\n{script}", out, seconds)
    text = log.read_text()
    assert done == 0, f"the quickstart ended with {done}:\n{text[-6000:]}"
    parts = re.split(_MARK.format(r"\d+"), text)
    return [part.strip() for part in parts[: len(chosen)]]
