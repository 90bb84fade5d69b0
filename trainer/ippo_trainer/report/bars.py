"""Bar charts as SVG: intent mix (stacked shares) and where value is lost. All pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ippo_trainer.report.svg import PALETTE, Scale, ink_class, shorten, svg, tag, text_width
from ippo_trainer.report.words import number, percent

ROW, GAP, GROUP = 24, 5, 30
"""Height of a bar, space below it, and height of a group's heading, px."""


@dataclass(frozen=True)
class Stack:
    """One stacked bar: shares by part, summing to 1 or less."""

    label: str
    shares: Mapping[str, float]


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name, in order. Names beyond the palette share its last colour, grey."""
    return {name: PALETTE[min(index, len(PALETTE) - 1)] for index, name in enumerate(names)}


def stacked_bars(
    title: str, groups: Sequence[tuple[str, Sequence[Stack]]], names: Sequence[str], width: float = 488
) -> Markup:
    """Horizontal stacked bars in groups. Parts are named inside the bar where there is room, and in the tooltip."""
    paint = colours(names)
    labels = [stack.label for _, stacks in groups for stack in stacks]
    label_width = min(max((text_width(label) for label in labels), default=0) + 8, width * 0.3)
    scale = Scale(0, 1, label_width, width)
    parts: list[Markup] = []
    y = 0.0
    for heading, stacks in groups:
        parts.append(tag("text", heading, class_="group", x=0.0, y=y + 18))
        y += GROUP - 4
        for stack in stacks:
            parts.append(_stack(stack, names, paint, scale, y))
            y += ROW + GAP
        y += 6
    described = ". ".join(
        f"{heading}, {stack.label}: "
        + ", ".join(
            f"{name} {percent(stack.shares.get(name, 0), 0)}" for name in names if stack.shares.get(name, 0) >= 0.005
        )
        for heading, stacks in groups
        for stack in stacks
    )
    return svg(width, max(y - 6, ROW), title, described, *parts)


def _stack(stack: Stack, names: Sequence[str], paint: Mapping[str, str], scale: Scale, y: float) -> Markup:
    parts: list[Markup] = [
        tag(
            "text", shorten(stack.label, scale.start - 6), class_="tick", x=scale.start - 8, y=y + 16, text_anchor="end"
        )
    ]
    start = 0.0
    for name in names:
        share = stack.shares.get(name, 0.0)
        if share <= 0:
            continue
        x, wide = scale(start), scale(start + share) - scale(start)
        start += share
        bar = tag("rect", class_="part", x=x, y=y, width=wide, height=float(ROW), fill=paint[name])
        text = _inside(name, share, wide)
        label = tag(
            "text", text, class_=f"inside {ink_class(paint[name])}", x=x + wide / 2, y=y + 16, text_anchor="middle"
        )
        tip = tag("title", f"{stack.label}: {name} {percent(share)}")
        parts.append(tag("g", tip, bar, label if text else ""))
    return tag("g", *parts)


def _inside(name: str, share: float, wide: float) -> str:
    """The longest of `CLOSE 62%`, `CLOSE`, `62%` that fits into the bar."""
    options = (f"{name} {percent(share, 0)}", name, percent(share, 0))
    return next((text for text in options if text_width(text, 11.5) <= wide - 8), "")


def loss_bars(title: str, rows: Sequence[tuple[str, float, float | None]], width: float = 488) -> Markup:
    """Paired horizontal bars, `(label, after, before)`: what is lost now, and thinner what the start lost."""
    top = max([abs(value) for _, after, before in rows for value in (after, before or 0.0)] + [1e-9])
    label_width = min(max((text_width(label) for label, _, _ in rows), default=0) + 10, width * 0.4)
    scale = Scale(0, top, label_width, width - 54)
    parts: list[Markup] = []
    y = 0.0
    for label, after, before in rows:
        middle = y + (15 if before is not None else 11)
        parts.append(
            tag(
                "text",
                shorten(label, label_width - 8),
                class_="tick",
                x=label_width - 8,
                y=middle + 4,
                text_anchor="end",
            )
        )
        if before is not None:
            parts.append(_bar(scale, y + 1, 8, before, "before", f"{label}, at the start: {number(before, 4)}"))
            y += 10
        parts.append(_bar(scale, y + 1, 15, after, "after", f"{label}, now: {number(after, 4)}"))
        end = scale(max(after, 0.0)) + 6
        parts.append(tag("text", number(after, 4), class_="value", x=end, y=y + 13))
        y += 26
    described = "; ".join(
        f"{label}: {number(after, 4)}" + (f", at the start {number(before, 4)}" if before is not None else "")
        for label, after, before in rows
    )
    return svg(width, max(y, 20), title, described, *parts)


def _bar(scale: Scale, y: float, height: float, value: float, style: str, tip: str) -> Markup:
    wide = max(scale(max(value, 0.0)) - scale.start, 1.0)
    return tag(
        "rect", tag("title", tip), class_=f"bar-{style}", x=scale.start, y=y, width=wide, height=float(height), rx=2.0
    )
