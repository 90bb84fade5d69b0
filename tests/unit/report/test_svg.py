"""The drawing pieces: scales, ticks, labels that keep apart, colours that can be read."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.report import svg

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_few_even_and_inside(low: float, span: float, count: int) -> None:
    high = low + span
    marks = svg.ticks(low, high, count)
    room = 1e-6 * max(abs(low), abs(high), span)
    assert len(marks) <= 2 * count + 1
    assert all(low - room <= mark <= high + room for mark in marks)
    steps = [b - a for a, b in pairwise(marks)]
    assert all(step > 0 for step in steps)
    assert not steps or max(steps) - min(steps) <= room


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 0.43, [0, 0.1, 0.2, 0.3, 0.4]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_ticks_of_nonsense_do_not_hang() -> None:
    assert svg.ticks(0, float("inf")) == [0]


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_spread_labels_keep_apart_in_order_and_inside(wanted: list[float]) -> None:
    placed = svg.spread(wanted, 14, 0, 300)
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in placed)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert all(placed[b] - placed[a] >= 14 - 1e-6 for a, b in pairwise(order))


def test_spread_leaves_alone_what_does_not_collide() -> None:
    assert svg.spread([200, 10, 100], 14, 0, 300) == [200, 10, 100]


def test_spread_moves_two_that_collide_by_half_each() -> None:
    assert svg.spread([100, 104], 14, 0, 300) == pytest.approx([95, 109])


def test_every_colour_has_readable_text_on_it() -> None:
    inks = {"on-light": svg.INK, "on-dark": "#ffffff"}
    assert all(svg.contrast(inks[svg.ink_class(colour)], colour) >= 4.5 for colour in svg.PALETTE)


def test_contrast_is_that_of_wcag() -> None:
    assert svg.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert svg.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_elements_escape_text_and_attributes() -> None:
    element = ElementTree.fromstring(svg.tag("text", "<b>&", x=1.234, font_size=3, class_='"><script>', y=None))
    assert element.text == "<b>&"
    assert element.attrib == {"x": "1.23", "font-size": "3", "class": '"><script>'}


@given(st.text(max_size=60), st.floats(0, 200))
def test_shortened_text_fits(text: str, width: float) -> None:
    assert svg.text_width(svg.shorten(text, width)) <= width + 1e-9


@given(st.lists(st.tuples(numbers, numbers), max_size=80), st.integers(1, 20))
def test_thinned_rows_keep_their_mean_and_range(rows: list[tuple[float, float]], limit: int) -> None:
    thinned = svg.thin(rows, limit)
    assert len(thinned) == min(len(rows), limit)
    if rows:
        assert min(y for _, y in rows) - 1e-6 <= min(y for _, y in thinned)
        assert max(y for _, y in rows) + 1e-6 >= max(y for _, y in thinned)


@given(st.integers(0, 500), st.integers(2, 20))
def test_evenly_chosen_indices_include_the_ends(count: int, limit: int) -> None:
    chosen = svg.evenly(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
