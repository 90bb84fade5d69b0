"""Line charts as SVG: estimates with intervals over cycles, training curves, and the reliability diagram. All pure.

Colours come from the page's style sheet through classes, so that one drawing serves light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ippo_trainer.report.model import Bin
from ippo_trainer.report.svg import Scale, shorten, spread, svg, tag, text_width, ticks
from ippo_trainer.report.words import interval_of, number, percent

WHISKERS = 24
"""Up to this many points get whiskers and markers; more get a band."""
Format = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """One estimate. `tip` is its tooltip."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    tip: str = ""


@dataclass(frozen=True)
class Series:
    """A named line; `style` is the suffix of its CSS class."""

    name: str
    points: Sequence[Point]
    style: str = "main"
    joined: bool = True
    """False draws the markers only."""
    markers: bool = True
    """A dot and an interval at each point, as long as the points are few."""
    end_label: bool = False
    """Writes the last value beside its point."""

    @property
    def few(self) -> bool:
        return self.markers and (len(self.points) <= WHISKERS or not self.joined)


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal reference line with its label."""

    name: str
    y: float
    style: str = "reference"


@dataclass(frozen=True)
class Axes:
    """What the axes show. `x_ticks` are (position, label); `dividers` are vertical lines with a label."""

    x_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_format: Format
    zero: bool = True
    dividers: Sequence[tuple[float, str]] = ()
    exactly: Format | None = None
    """How levels and last values are written, if not like the ticks."""

    def label(self, value: float) -> str:
        """A value beside a level or a point."""
        return (self.exactly or self.y_format)(value)


@dataclass(frozen=True)
class Plot:
    """What a line chart shows: lines, horizontal reference lines, and the axes that they share."""

    series: Sequence[Series]
    axes: Axes
    levels: Sequence[ReferenceLine] = ()


@dataclass(frozen=True)
class Frame:
    """A plot area inside a drawing: scales and margins, px."""

    x: Scale
    y: Scale
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def bottom(self) -> float:
        return self.y.start


def line_chart(title: str, description: str, plot: Plot, width: float = 488, height: float = 300) -> Markup:
    """Lines with intervals, reference levels labelled at the right, the last estimate of each line labelled."""
    names = _end_labels(plot)
    margin = max((min(text_width(name, 12.5), width * 0.36) for _, name, _ in names), default=0)
    frame = _frame(plot, width, height, margin + 10 if names else 10)
    return svg(
        width,
        height,
        title,
        description,
        _grid(frame, plot.axes),
        *[_level(frame, level) for level in plot.levels],
        *[_series(frame, line, plot.axes) for line in plot.series if line.points],
        *_side_labels(frame, names, margin),
    )


def _end_labels(plot: Plot) -> list[tuple[float, str, str]]:
    """(y, text, class) of what is written at the right: each level, and each line where there are several."""
    names = [(level.y, f"{level.name} {plot.axes.label(level.y)}", f"label-{level.style}") for level in plot.levels]
    lines = [line for line in plot.series if line.joined and line.points]
    if len(lines) > 1:
        names += [(line.points[-1].y, line.name, f"label-{line.style}") for line in lines]
    return names


def _frame(plot: Plot, width: float, height: float, margin: float) -> Frame:
    axes, points = plot.axes, [point for line in plot.series for point in line.points]
    heights = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    heights += [level.y for level in plot.levels] + ([0.0] if axes.zero else [])
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    room = (high - low or abs(high) or 1.0) * 0.08
    low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room
    left = 10 + max((text_width(axes.y_format(tick), 11) for tick in ticks(low, high)), default=20)
    xs = [point.x for point in points] + [x for x, _ in axes.dividers]
    x_low, x_high = min(xs, default=0.0), max(xs, default=1.0)
    inset = 14 if any(line.few for line in plot.series) else 2
    return Frame(
        Scale(x_low, x_high, left + inset, width - margin - inset),
        Scale(low, high, height - 36, 20 if axes.dividers else 14),
        width,
        height,
    )


def _grid(frame: Frame, axes: Axes) -> Markup:
    parts: list[Markup] = []
    left = frame.x.start - 14
    for tick in ticks(frame.y.low, frame.y.high):
        y = frame.y(tick)
        parts.append(tag("line", class_="rule", x1=left + 6, x2=frame.right + 6, y1=y, y2=y))
        parts.append(tag("text", axes.y_format(tick), class_="tick", x=left, y=y + 4, text_anchor="end"))
    for position, label in axes.dividers:
        x = frame.x(position)
        parts.append(tag("line", class_="divider", x1=x, x2=x, y1=frame.y.end, y2=frame.bottom))
        parts.append(tag("text", label, class_="tick", x=x, y=frame.y.end - 6, text_anchor="middle"))
    for position, label in axes.x_ticks:
        parts.append(tag("text", label, class_="tick", x=frame.x(position), y=frame.bottom + 16, text_anchor="middle"))
    middle = (frame.x.start + frame.right) / 2
    parts.append(tag("text", axes.x_label, class_="axis", x=middle, y=frame.height - 3, text_anchor="middle"))
    return tag("g", *parts)


def _level(frame: Frame, level: ReferenceLine) -> Markup:
    y = frame.y(level.y)
    return tag("line", class_=f"level line-{level.style}", x1=frame.x.start - 8, x2=frame.right + 6, y1=y, y2=y)


def _series(frame: Frame, line: Series, axes: Axes) -> Markup:
    spots = [(frame.x(point.x), frame.y(point.y)) for point in line.points]
    parts: list[Markup] = [_whiskers(frame, line) if line.few else _band(frame, line)]
    if line.joined:
        runs = _runs(line.points, spots, [x for x, _ in axes.dividers])
        parts.append(tag("path", class_=f"line line-{line.style}", d="".join(path(run) for run in runs)))
    if line.few:
        parts += [
            tag(
                "circle",
                tag("title", point.tip or f"{line.name}: {axes.y_format(point.y)}"),
                class_=f"dot dot-{line.style}",
                cx=x,
                cy=y,
                r=4.5,
            )
            for point, (x, y) in zip(line.points, spots, strict=True)
        ]
    if line.end_label:
        x, y = spots[-1]
        top = min(y, frame.y(line.points[-1].high or line.points[-1].y))
        text = axes.label(line.points[-1].y)
        parts.append(tag("text", text, class_="end", x=x + 10, y=top - 7, text_anchor="end"))
    return tag("g", *parts)


def _runs(
    points: Sequence[Point], spots: Sequence[tuple[float, float]], breaks: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """The spots of a line, cut where a divider lies between two of them."""
    runs: list[list[tuple[float, float]]] = [[]]
    for index, spot in enumerate(spots):
        if index and any(points[index - 1].x < x <= points[index].x for x in breaks):
            runs.append([])
        runs[-1].append(spot)
    return runs


def path(spots: Sequence[tuple[float, float]]) -> str:
    """The `d` of a polyline."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)


def _whiskers(frame: Frame, line: Series) -> Markup:
    return tag(
        "g",
        *[
            tag(
                "path",
                class_=f"whisker line-{line.style}",
                d=f"M{x:.1f} {top:.1f}V{low:.1f}M{x - 4:.1f} {top:.1f}h8M{x - 4:.1f} {low:.1f}h8",
            )
            for x, top, low in (
                (frame.x(p.x), frame.y(p.high), frame.y(p.low))
                for p in line.points
                if p.low is not None and p.high is not None
            )
        ],
    )


def _band(frame: Frame, line: Series) -> Markup:
    intervals = [
        (frame.x(p.x), frame.y(p.low), frame.y(p.high)) for p in line.points if p.low is not None and p.high is not None
    ]
    if not intervals:
        return Markup("")
    outline = [(x, top) for x, _, top in intervals] + [(x, low) for x, low, _ in reversed(intervals)]
    return tag("path", class_=f"band band-{line.style}", d=path(outline) + "Z")


def _side_labels(frame: Frame, names: Sequence[tuple[float, str, str]], room: float) -> list[Markup]:
    """Labels beside the right edge, moved apart where they would overlap."""
    if not names:
        return []
    places = spread([frame.y(y) for y, _, _ in names], 14, frame.y.end + 2, frame.bottom)
    return [
        tag(
            "text",
            shorten(name, room, 12.5),
            tag("title", name),
            class_=f"label {style}",
            x=frame.right + 10,
            y=place + 4,
        )
        for (_, name, style), place in zip(names, places, strict=True)
    ]


def reliability(title: str, bins: Sequence[Bin], width: float = 300) -> Markup:
    """Predicted against observed mean return; on the diagonal the prediction is right. Dots grow with their count."""
    finite = [row for row in bins if math.isfinite(row.predicted) and math.isfinite(row.observed)]
    top = max(
        [row.high if row.high is not None else row.observed for row in finite]
        + [row.predicted for row in finite]
        + [1e-6]
    )
    bottom, left, top_edge = width - 36, 44, 24
    scale_x, scale_y = Scale(0, top * 1.05, left, width - 12), Scale(0, top * 1.05, bottom, top_edge)
    marks = ticks(0, top * 1.05, 4)
    parts = [tag("line", class_="rule", x1=left, x2=width - 12, y1=scale_y(m), y2=scale_y(m)) for m in marks]
    parts += [tag("text", number(m, 2), class_="tick", x=left - 6, y=scale_y(m) + 4, text_anchor="end") for m in marks]
    parts += [
        tag("text", number(m, 2), class_="tick", x=scale_x(m), y=bottom + 16, text_anchor="middle") for m in marks
    ]
    parts.append(
        tag("path", class_="level line-reference", d=path([(scale_x(0), scale_y(0)), (scale_x.end, scale_y.end)]))
    )
    largest = max((row.count for row in finite), default=1) or 1
    for row in finite:
        x, y = scale_x(row.predicted), scale_y(row.observed)
        if row.low is not None and row.high is not None:
            parts.append(
                tag("line", class_="whisker line-main", x1=x, x2=x, y1=scale_y(max(row.low, 0)), y2=scale_y(row.high))
            )
        observed = interval_of(row.observed, row.low, row.high)
        tip = f"predicted {number(row.predicted)}, observed {observed}, {row.count:,} turns"
        radius = 3 + 4 * math.sqrt(row.count / largest)
        parts.append(tag("circle", tag("title", tip), class_="dot dot-main", cx=x, cy=y, r=radius))
    parts.append(tag("text", "predicted by Q", class_="axis", x=(left + width) / 2, y=width - 3, text_anchor="middle"))
    parts.append(tag("text", "observed", class_="axis", x=4.0, y=8.0 + 4))
    description = "; ".join(f"predicted {number(row.predicted)} observed {number(row.observed)}" for row in finite)
    return svg(width, width, title, description or "no bins", *parts)


def percent_tick(share: float) -> str:
    """Axis labels of shares: `20%`, `2.5%`."""
    return percent(share, 0 if abs(share * 100 - round(share * 100)) < 1e-9 else 1)


def number_tick(value: float) -> str:
    """Axis labels of plain numbers, as short as they can be: `0.05`, `12`, `2e−5`."""
    if value == 0:
        return "0"
    if abs(value) < 0.001 or abs(value) >= 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")
