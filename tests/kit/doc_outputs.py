"""Whether a command printed what a page shows. Words have to be the same; figures, times and digests may differ."""

import re

GAP = "…"
"""Alone on a line: any number of lines. In a line: any text."""
_FIGURES = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": r"\S+",
    r"\d\d:\d\d:\d\d": r"\d\d:\d\d:\d\d",
    r"[█░]+": r"[█░]+",
    r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b": r"[0-9a-f]{8,64}",
    r"\b\d+ (?:s|min|h)\b(?: \d+ (?:s|min)\b)?": r"\d+ (?:s|min|h)(?: \d+ (?:s|min))?",
    r"[+-]?\d+\.\d+(?:e[+-]?\d+)?": r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?",
    r"\b\d+(?=%)|\b\d{3,}\b": r"\d+(?:\.\d+)?",
    r"\s+": r"\s+",
    GAP: r".*",
}
_PART = re.compile("|".join(f"({figure})" for figure in _FIGURES))


def missing(expected: str, printed: str) -> str | None:
    """The first line of `expected` that `printed` lacks; None if all is there, in order and with no other line between.

    Args:
        expected: what the page shows.
        printed: what the commands printed; empty lines do not count.
    """
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    start, gap = 0, False
    for shown in filter(None, map(str.strip, expected.splitlines())):
        if shown == GAP:
            gap = True
            continue
        last = len(lines) if gap else min(start + 1, len(lines))
        line = next((number for number in range(start, last) if pattern(shown).fullmatch(lines[number])), None)
        if line is None:
            return shown
        start, gap = line + 1, False
    return None if gap or start == len(lines) else f"nothing after that, but printed was: {lines[start]}"


def pattern(line: str) -> re.Pattern[str]:
    """A line of a page as a pattern for what may be printed."""
    allowed, parts, end = list(_FIGURES.values()), [], 0
    for match in _PART.finditer(line):
        parts += [re.escape(line[end : match.start()]), allowed[(match.lastindex or 1) - 1]]
        end = match.end()
    return re.compile("".join([*parts, re.escape(line[end:])]))
