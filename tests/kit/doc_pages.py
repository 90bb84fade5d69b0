"""The documentation as blocks of code. A block is fenced by three backticks, and its language says what it is.

`sh` blocks are commands. A `text` block that follows an `sh` block directly is what its commands print, abridged:
`…` stands for what is left out. `yaml`, `json` and `python` are files or parts of files; other `text` is a quotation.
A block without a language is a drawing.
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```([a-z]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: the page's path from the repository's root.
        section: the heading above the block.
        language: what the fence says.
        code: the block's lines.
        line: the line of the page on which the code begins.
        output: what the commands print, if the page shows it.
    """

    page: str
    section: str
    language: str
    code: str
    line: int
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page of documentation, by its path from the root."""
    names = ["README.md", "CONTRIBUTING.md", "charts/ippo-operator/README.md"]
    return names + sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def blocks(page: str) -> list[Block]:
    """A page's blocks in order; the outputs of commands are part of the commands' block."""
    text = (ROOT / page).read_text()
    headings = [(match.start(), match.group(1)) for match in _HEADING.finditer(_without_code(text))]
    result: list[Block] = []
    end = -1
    for match in _FENCE.finditer(text):
        code, language = textwrap.dedent(match.group(3)), match.group(2)
        follows = end >= 0 and not text[end : match.start()].strip() and result[-1].language == "sh"
        end = match.end()
        if language == "text" and follows and result[-1].output is None:
            last = result.pop()
            result.append(Block(last.page, last.section, last.language, last.code, last.line, code))
            continue
        section = max((place, name) for place, name in headings if place < match.start())[1]
        line = text.count("\n", 0, match.start()) + 2
        result.append(Block(page, section, language, code, line))
    return result


def shell(page: str) -> list[Block]:
    """A page's blocks of commands."""
    return [block for block in blocks(page) if block.language == "sh"]


def of_languages(languages: Iterable[str]) -> list[Block]:
    """The blocks of all pages in one of these languages."""
    names = set(languages)
    return [block for page in pages() for block in blocks(page) if block.language in names]


def _without_code(text: str) -> str:
    """The page with its blocks blanked out, so that a comment in a script is no heading."""
    return _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)
