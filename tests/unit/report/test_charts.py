"""Charts are well-formed SVG whose marks are where the numbers are."""

import re
from xml.etree import ElementTree

import pytest
from ippo_trainer.report.bars import Stack, loss_bars, stacked_bars
from ippo_trainer.report.charts import (
    Axes,
    Plot,
    Point,
    ReferenceLine,
    Series,
    line_chart,
    number_tick,
    percent_tick,
    reliability,
)
from ippo_trainer.report.model import Bin

AXES = Axes("cycle", [(x, str(x)) for x in range(4)], percent_tick)


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def with_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


def test_a_line_chart_puts_higher_values_higher_and_labels_them() -> None:
    points = [Point(x, 0.1 * x, 0.1 * x - 0.02, 0.1 * x + 0.02, f"cycle {x}") for x in range(4)]
    chart = parse(
        line_chart(
            "Success",
            "rising",
            Plot([Series("s", points, end_label=True)], AXES, [ReferenceLine("optimum", 0.4, "optimum")]),
        )
    )
    dots = with_class(chart, "dot")
    heights = [float(dot.get("cy", "nan")) for dot in dots]
    assert heights == sorted(heights, reverse=True)
    assert [dot.findtext("title") for dot in dots] == ["cycle 0", "cycle 1", "cycle 2", "cycle 3"]
    assert len(with_class(chart, "whisker")) == 4
    level = with_class(chart, "level")[0]
    assert float(level.get("y1", "nan")) < heights[-1]
    assert chart.get("aria-label") == "Success. rising"
    assert chart.findtext("desc") == "rising"
    texts = [element.text for element in chart.iter("text")]
    assert "30%" in texts
    assert "optimum 40%" in texts


def test_everything_drawn_is_inside() -> None:
    points = [Point(x, 0.1, -0.3, 0.9) for x in range(4)]
    chart = parse(
        line_chart("t", "d", Plot([Series("s", points)], AXES, [ReferenceLine("a very long name", 2.0)]), 308, 200)
    )
    for element in chart.iter():
        for name, size in (("x", 308), ("cx", 308), ("x1", 308), ("x2", 308), ("y", 200), ("cy", 200), ("y1", 200)):
            assert 0 <= float(element.get(name, 1)) <= size


def test_many_points_get_a_band_instead_of_whiskers() -> None:
    points = [Point(x, x, x - 1, x + 1) for x in range(100)]
    chart = parse(line_chart("t", "d", Plot([Series("s", points)], Axes("x", [], number_tick))))
    assert len(with_class(chart, "band")) == 1
    assert not with_class(chart, "dot")
    assert not with_class(chart, "whisker")


def test_lines_break_where_a_cycle_begins() -> None:
    axes = Axes("update", [], number_tick, dividers=[(0.0, "1"), (3.0, "2")])
    points = [Point(x, x % 3) for x in range(6)]
    chart = parse(line_chart("t", "d", Plot([Series("s", points, markers=False)], axes)))
    assert with_class(chart, "line")[0].get("d", "").count("M") == 2


@pytest.mark.parametrize("ys", [[], [0.0], [5.0, 5.0], [-1.0, -1.0], [1e-9, 2e-9], [1e12, -1e12]])
def test_odd_values_make_finite_coordinates(ys: list[float]) -> None:
    series = [Series("s", [Point(x, y) for x, y in enumerate(ys)], end_label=True)]
    text = line_chart("t", "d", Plot(series, Axes("x", [], number_tick, zero=False)))
    parse(text)
    assert "nan" not in text
    assert "inf" not in text


def test_stacked_bars_fill_the_width_in_proportion() -> None:
    stacks = [Stack("start", {"ASK": 0.25, "CLOSE": 0.75}), Stack("cycle 1", {"ASK": 1.0, "CLOSE": 0.0})]
    chart = parse(stacked_bars("mix", [("cold", stacks)], ["ASK", "CLOSE"], 488))
    widths = [float(part.get("width", "nan")) for part in with_class(chart, "part")]
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-3)
    assert widths[2] == pytest.approx(widths[0] + widths[1], rel=1e-3)
    assert [label.text for label in with_class(chart, "inside")] == ["ASK 25%", "CLOSE 75%", "ASK 100%"]
    assert "cold, start: ASK 25%, CLOSE 75%" in (chart.findtext("desc") or "")


def test_narrow_parts_have_no_label_but_a_tooltip() -> None:
    chart = parse(stacked_bars("mix", [("cold", [Stack("s", {"ASK": 0.99, "CHAT": 0.01})])], ["ASK", "CHAT"], 300))
    assert [label.text for label in with_class(chart, "inside")] == ["ASK 99%"]
    assert "s: CHAT 1.0%" in [title.text for title in chart.iter("title")]


def test_loss_bars_are_as_long_as_the_losses() -> None:
    chart = parse(loss_bars("loss", [("turn 1", 0.01, 0.04), ("turn 2", -0.001, 0.02)]))
    now, then = with_class(chart, "bar-after"), with_class(chart, "bar-before")
    assert float(then[0].get("width", "nan")) == pytest.approx(4 * float(now[0].get("width", "nan")), rel=0.01)
    assert float(now[1].get("width", "nan")) == 1.0
    assert "−0.0010" in [text.text for text in with_class(chart, "value")]


def test_a_perfect_q_lies_on_the_diagonal() -> None:
    chart = parse(reliability("r", [Bin(predicted=p, observed=p, count=10) for p in (0.1, 0.4)], 300))
    a, b = with_class(chart, "dot")
    diagonal = [
        float(number) for number in re.findall(r"[\d.]+", with_class(chart, "level")[0].get("d", ""))
    ]  # x0 y0 x1 y1
    slope = (diagonal[3] - diagonal[1]) / (diagonal[2] - diagonal[0])
    for dot in (a, b):
        x, y = float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))
        assert y == pytest.approx(diagonal[1] + slope * (x - diagonal[0]), abs=0.1)


def test_a_reliability_diagram_without_bins_is_still_a_drawing() -> None:
    assert parse(reliability("r", [])).tag.endswith("svg")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.05"), (12, "12"), (2e-5, "2e−5"), (-0.5, "−0.5"), (1e6, "1e6")]
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert number_tick(value) == text
