"""The page in a real browser: no errors, nothing loaded, no sideways scrolling on a phone, readable in the dark."""

from pathlib import Path

import pytest
from ippo_trainer.report import write_report

from tests.kit.browser import NEEDED, Browser
from tests.kit.browser import chromium as chromium
from tests.kit.readable import LOW_CONTRAST

from . import synthetic

pytestmark = NEEDED

SMALL_TEXT = """
[...document.querySelectorAll('svg text')].filter(e => e.getClientRects().length)
  .map(e => [e.textContent, parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a]).filter(p => p[1] < 10)
"""
OUTSIDE = """
[...document.querySelectorAll('svg text')].filter(e => e.getClientRects().length).filter(e => {
  const box = e.getBoundingClientRect(), card = e.closest('.card').getBoundingClientRect();
  return box.left < card.left || box.right > card.right;
}).map(e => e.textContent)
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    full = synthetic.full(folder / "full-run")
    plain = synthetic.full(folder / "plain-run", ["Reject"], exact=False)
    evil = synthetic.Run(folder / "evil-run")
    evil.describe()
    evil.warm_start()
    evil.cycle(1, message="<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>" + "long" * 200)
    empty = synthetic.Run(folder / "empty-run")
    found = {}
    for name, made in {"full": full, "plain": plain, "evil": evil, "empty": empty}.items():
        found[name] = folder / f"{name}.html"
        write_report(made.store, found[name], made.manifest)
    return found


@pytest.mark.parametrize("name", ["full", "plain", "evil", "empty"])
@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (820, False), (1280, False), (1280, True)])
def test_the_page_works(chromium: Browser, reports: dict[str, Path], name: str, width: int, dark: bool) -> None:
    chromium.open(reports[name], width, dark=dark)
    assert chromium.evaluate(LOW_CONTRAST) == []  # opens everything that is folded, too
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    assert chromium.evaluate(SMALL_TEXT) == []
    assert chromium.evaluate(OUTSIDE) == []
    assert chromium.evaluate("typeof window.pwned") == "undefined"
    assert chromium.messages == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in chromium.requests if url.startswith("file:")]) == 1


def test_dark_is_dark_and_light_is_light(chromium: Browser, reports: dict[str, Path]) -> None:
    colours = []
    for dark in (False, True):
        chromium.open(reports["full"], 1280, dark=dark)
        colours.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, night = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert light > 600
    assert night < 150


def test_conversations_stand_side_by_side_on_a_desktop_and_below_each_other_on_a_phone(
    chromium: Browser, reports: dict[str, Path]
) -> None:
    tops = "[...document.querySelector('.sides').children].map(e => Math.round(e.getBoundingClientRect().top))"
    chromium.open(reports["full"], 1280)
    before, after = chromium.evaluate(tops)
    assert before == after
    chromium.open(reports["full"], 360)
    before, after = chromium.evaluate(tops)
    assert before < after
