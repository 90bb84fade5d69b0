"""Small pieces to draw SVG with: elements, scales, ticks, text widths and labels that do not overlap. All pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#9AA1AC")
"""Okabe and Ito's colour-blind-safe colours, grey instead of black so that all show on light and on dark."""
INK = "#0b0d10"
"""Near-black, for text on light colours."""


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element. `_` in attribute names becomes `-`, a trailing one is dropped (`class_`); None leaves it out.

    Children and attribute values are escaped unless they are Markup already. Floats get at most two decimals.
    """
    parts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None
    ]
    body = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(parts), body)  # noqa: S704 - names are literals


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def svg(width: float, height: float, title: str, description: str, *children: str) -> Markup:
    """A drawing that scales to its container and reads as one image with a name and a description."""
    return tag(
        "svg",
        tag("desc", description),
        *children,
        viewBox=f"0 0 {_attribute(float(width))} {_attribute(float(height))}",
        role="img",
        aria_label=f"{title}. {description}",
        # The drawing's own width: never scaled up, so that text keeps its size.
        width=float(width),
        height=float(height),
    )


_NARROWEST = 0.32


def text_width(text: str, size: float = 12) -> float:
    """Rough width in px of text in a sans-serif face; errs on the wide side."""
    narrow = sum(character in "il.,:;'|!()[] " for character in text)
    wide = sum(character in "MW%@" or character.isupper() for character in text)
    return size * (0.56 * len(text) - (0.56 - _NARROWEST) * narrow + 0.14 * wide)


def shorten(text: str, width: float, size: float = 12) -> str:
    """`text`, cut with an ellipsis to fit into `width` px; empty if not even two letters fit."""
    fitting = max(0, int(width / (size * _NARROWEST))) + 1  # no longer text can fit, and a long one is not measured
    if len(text) <= fitting and text_width(text, size) <= width:
        return text
    for length in range(min(len(text) - 1, fitting), 1, -1):
        if text_width(text[:length] + "…", size) <= width:
            return text[:length].rstrip() + "…"
    return ""


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high], about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def integer_ticks(low: int, high: int, count: int) -> list[int]:
    """Whole numbers from `low` to `high`, about `count` of them, evenly spaced and with round steps."""
    return [int(value) for value in ticks(low, high, count) if value == int(value)] if high > low else [low]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `positions`, at least `gap` apart, within [low, high] as far as that is possible.

    Keeps the order of `positions`. Neighbours that collide are centred on their mean (pool adjacent violators on
    position minus rank times gap), so that no label wanders further than it has to.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        block = (positions[index] - rank * gap, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, size = blocks.pop()
            block = ((mean * size + block[0] * block[1]) / (size + block[1]), size + block[1])
        blocks.append(block)
    ceiling = high - gap * (len(positions) - 1)
    placed = [0.0] * len(positions)
    rank = 0
    for mean, size in blocks:
        for _ in range(size):
            placed[order[rank]] = max(low, min(mean, ceiling)) + rank * gap
            rank += 1
    return placed


def luminance(colour: str) -> float:
    """WCAG relative luminance of `#rrggbb`."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours, 1 to 21."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def ink_class(colour: str) -> str:
    """The style sheet's class for text on `colour`: near-black or white, whichever reads better."""
    return "on-light" if contrast(INK, colour) >= contrast("#ffffff", colour) else "on-dark"


def thin(rows: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points: means of equal runs of neighbours; the rows themselves if they are few enough."""
    if len(rows) <= limit:
        return list(rows)
    edges = [round(index * len(rows) / limit) for index in range(limit + 1)]
    pieces = [rows[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` indices of range(count), evenly spread, with the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return sorted({round(index * (count - 1) / (limit - 1)) for index in range(limit)})
