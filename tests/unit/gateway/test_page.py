"""The gateway's page in a real browser: a conversation by clicks, on a phone and a desktop, by day and by night."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from ippo_trainer.gateway import page

from tests.kit import gateways
from tests.kit.browser import NEEDED, Browser
from tests.kit.browser import chromium as chromium
from tests.kit.fake_gateway import FakeGateway
from tests.kit.readable import LOW_CONTRAST

pytestmark = NEEDED
SHOTS = os.environ.get("IPPO_SCREENSHOTS", "")
"""A folder for what the page looks like, for people."""
WINDOWS = pytest.mark.parametrize(
    ("width", "height", "dark"), [(360, 740, False), (360, 740, True), (1280, 800, False), (1280, 800, True)]
)
SUGGESTIONS = {"Hello": "Which tea do you like? <b>Green</b> & black", "Yes, please": "A box is 5 €.", "Mumble": None}


class PageGateway(FakeGateway):
    """With the page."""

    def app(self) -> web.Application:
        app = super().app()
        page.install(app)
        return app


@pytest.fixture
def gateway() -> Iterator[PageGateway]:
    with PageGateway(lambda message: SUGGESTIONS.get(message, "Is there anything else?")) as running:
        yield running


def look(chromium: Browser, name: str) -> None:
    """Nothing is too pale or out of sight; a picture of it, if one is wanted."""
    assert chromium.evaluate(LOW_CONTRAST) == []
    assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if SHOTS:
        chromium.screenshot(Path(SHOTS) / f"{name}.png")


def text(chromium: Browser, selector: str) -> str:
    return str(chromium.evaluate(f"document.querySelector({selector!r}).innerText"))


@WINDOWS
def test_a_conversation_from_greeting_to_outcome_by_clicks_alone(
    chromium: Browser, gateway: PageGateway, width: int, height: int, dark: bool
) -> None:
    name = f"{width}-{'dark' if dark else 'light'}"
    chromium.open(gateway.url, width, height, dark)
    chromium.evaluate("sessionStorage.clear()")
    chromium.open(gateway.url, width, height, dark)
    look(chromium, f"{name}-1-begin")
    chromium.click("#phrases button:nth-child(1)")
    chromium.until("!document.querySelector('#suggestion').hidden")
    assert text(chromium, "#suggested") == SUGGESTIONS["Hello"]
    look(chromium, f"{name}-2-suggestion")
    chromium.click("#accept")
    chromium.click("#phrases button:nth-child(2)")
    chromium.click("#reject")
    look(chromium, f"{name}-3-reject")
    chromium.click("#back")
    chromium.click("#accept")
    look(chromium, f"{name}-4-customer")
    chromium.click("#won")
    chromium.until("document.querySelector('#end').hidden")
    look(chromium, f"{name}-5-end")
    assert "With the outcome." in text(chromium, "#transcript")
    [identifier] = gateway.told
    accepted = [{"reaction": "accepted", "suggestion_id": f"{identifier}-{turn}"} for turn in range(2)]
    assert gateway.told_of_one == [
        ("asks", 0, "Hello"),
        ("turns/0/reaction", accepted[0]),
        ("asks", 1, "Yes, please"),
        ("turns/1/reaction", accepted[1]),
        ("outcome", {"outcome": True}),
        ("close", {}),
    ]
    assert chromium.messages == []
    assert {url.removeprefix(gateway.url).split("/")[1] for url in chromium.requests if url[:5] != "data:"} == {
        "",
        "page",
        "v1",
    }


@pytest.fixture
def opened(chromium: Browser, gateway: PageGateway) -> Browser:
    chromium.open(gateway.url, 800)
    chromium.evaluate("sessionStorage.clear()")
    chromium.open(gateway.url, 800)
    return chromium


def test_what_is_edited_rejected_or_written_where_nothing_was_suggested(opened: Browser, gateway: PageGateway) -> None:
    opened.click("#message")
    opened.type("Hello")
    opened.click("#customer-form .main")
    opened.click("#edit")
    assert opened.evaluate("document.querySelector('#own').value") == SUGGESTIONS["Hello"]
    opened.type(" tea")
    opened.click("#own-form .main")
    opened.click("#phrases button:nth-child(3)")
    opened.click("#reject")
    opened.type("Goodbye then.")
    opened.click("#own-form .main")
    opened.click("#message")
    opened.type("Mumble")
    opened.click("#customer-form .main")
    opened.until("!document.querySelector('#suggestion').hidden")
    assert text(opened, "#suggested") == "The policy suggests nothing."
    opened.click("#own-form .main")
    assert text(opened, "#problem") == "Write what you send to the customer."
    opened.type("Pardon?")
    opened.click("#own-form .main")
    opened.click("#lost")
    opened.until("document.querySelector('#end').hidden")
    reactions = [body for path, *_, body in gateway.told_of_one if "reaction" in path]  # type: ignore[misc]
    edited = f"{SUGGESTIONS['Hello']} tea"
    assert [(body["reaction"], body["sent"]) for body in reactions] == [
        ("edited", edited),
        ("rejected", "Goodbye then."),
        ("rejected", "Pardon?"),
    ]
    sent = [message for message in gateway.asked[-1]["messages"] if message["role"] == "assistant"]
    assert sent[0] == {
        "role": "assistant",
        "content": edited,
        "suggestion": SUGGESTIONS["Hello"],
        "reaction": "edited",
    }
    assert ("outcome", {"outcome": False}) in gateway.told_of_one


def test_it_goes_by_the_keyboard_and_survives_a_reload(opened: Browser, gateway: PageGateway) -> None:
    opened.click("#message")
    opened.type("Hello")
    for _ in range(4):
        opened.press("Tab", 9)
    assert text(opened, ":focus") == "Suggest a reply"
    opened.press("Enter", 13)
    opened.until("document.activeElement.id === 'accept'")
    opened.open(gateway.url, 800)
    opened.until("!document.querySelector('#suggestion').hidden")
    assert text(opened, "#suggested") == SUGGESTIONS["Hello"]
    opened.click("#accept")
    opened.until("document.activeElement.id === 'message'")
    assert [each[0] for each in gateway.told_of_one] == ["asks", "turns/0/reaction"]  # type: ignore[index]


def test_what_goes_wrong_is_on_the_page_and_can_be_tried_again(opened: Browser, gateway: PageGateway) -> None:
    gateway.refusals = [503]
    opened.click("#phrases button:nth-child(1)")
    opened.until("!document.querySelector('#problem').hidden")
    assert text(opened, "#problem") == "refused with 503"
    opened.click("#customer-form .main")
    opened.until("!document.querySelector('#suggestion').hidden")
    assert opened.evaluate("document.querySelector('#problem').hidden")
    gateway.refusals = [500]
    opened.click("#accept")
    opened.until("!document.querySelector('#problem').hidden")
    opened.click("#accept")
    opened.click("#open")
    opened.until("document.querySelector('#end').hidden")
    assert [each[0] for each in gateway.told_of_one] == ["asks", "turns/0/reaction", "close"]  # type: ignore[index]


def test_a_key_is_asked_for_where_it_is_needed_and_stays_in_the_tab(chromium: Browser) -> None:
    with PageGateway(lambda message: "Hi", key="secret") as gateway:
        chromium.open(gateway.url, 360)
        chromium.evaluate("sessionStorage.clear()")
        chromium.open(gateway.url, 360)
        chromium.click("#phrases button:nth-child(1)")
        chromium.until("document.activeElement.id === 'key'")
        look(chromium, "360-light-key")
        chromium.type("secret")
        chromium.click("#key-form .main")
        chromium.click("#customer-form .main")
        chromium.until("!document.querySelector('#suggestion').hidden")
        assert chromium.evaluate("localStorage.length + document.cookie.length") == 0
        assert chromium.evaluate("document.body.innerText.includes('secret')") is False


def test_a_new_conversation_has_a_new_name(opened: Browser, gateway: PageGateway) -> None:
    for _ in range(2):
        opened.click("#phrases button:nth-child(1)")
        opened.click("#accept")
        opened.click("#lost")
        opened.until("document.querySelector('#end').hidden")
        opened.click("#new")
    assert len(gateway.told) == 2
    assert text(opened, "#transcript") == ""


def test_the_browser_is_told_to_let_it_load_nothing_else(opened: Browser) -> None:
    attempt = "fetch('https://shop.example/').then(() => 'loaded', () => 'refused').then(r => document.title = r)"
    opened.evaluate(f"void {attempt}")
    opened.until("document.title === 'refused'")
    assert any("Content Security Policy" in message for message in opened.messages)


def test_the_gateway_itself_takes_what_the_page_says(chromium: Browser, tmp_path: Path) -> None:
    def clicks(url: str) -> None:
        chromium.open(url, 800)
        chromium.evaluate("sessionStorage.clear()")
        chromium.open(url, 800)
        chromium.click("#phrases button:nth-child(1)")
        chromium.click("#edit")
        chromium.type("!")
        chromium.click("#own-form .main")
        chromium.click("#won")
        chromium.until("document.querySelector('#end').hidden")
        assert chromium.messages == []

    async def check() -> None:
        async with gateways.gateway(tmp_path) as bench:
            await asyncio.to_thread(clicks, str(bench.client.make_url("")))
            suggestion, reaction, outcome, close = bench.events()
        kinds = [event["kind"] for event in (suggestion, reaction, outcome, close)]
        assert kinds == ["suggestion", "reaction", "outcome", "close"]
        assert len({event["conversation_id"] for event in (suggestion, reaction, outcome, close)}) == 1
        assert (reaction["reaction"], reaction["sent"], reaction["turn"]) == ("edited", "Ten for you.!", 0)
        assert reaction["suggestion_id"] == suggestion["suggestion"]["id"]
        assert outcome["outcome"] is True

    asyncio.run(check())
