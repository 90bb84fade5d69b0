"""What the page is put together from: figures with their numbers as tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

NARROW = 308.0
"""Width of the drawings for a phone of 360 px, and of small figures everywhere; px."""
HALF = {"narrow": NARROW, "half": 488.0}
"""Widths of a figure that takes half of a desktop page, by the style sheet's class."""
WHOLE = {"narrow": NARROW, "middle": 600.0, "whole": 960.0}
"""Widths of a figure that takes the whole page, by class."""


@dataclass(frozen=True)
class FigureTable:
    """Rows of plain text. The first column heads its row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A titled drawing, a sentence about it, and its numbers."""

    title: str
    text: str
    drawings: Mapping[str, Markup]
    """The same drawing for several widths, of which the style sheet shows one; or `{"only": drawing}`."""
    table: FigureTable | None = None


def figure(
    title: str,
    text: str,
    draw: Callable[[float], Markup],
    widths: Mapping[str, float],
    table: FigureTable | None = None,
) -> Figure:
    """A figure whose drawing is made for each width."""
    return Figure(title, text, {name: draw(width) for name, width in widths.items()}, table)


def small_figure(title: str, text: str, drawing: Markup, table: FigureTable | None = None) -> Figure:
    """A figure that is as wide as a phone everywhere."""
    return Figure(title, text, {"only": drawing}, table)
