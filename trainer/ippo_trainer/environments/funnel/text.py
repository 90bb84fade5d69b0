"""The words of SR-funnel: every intent and every visible state in several wordings, and the way back.

About 120 words in lower case without punctuation, as people type in a chat. A suggestion is parsed by its words, so
capitals, punctuation and spacing do not matter; anything that is not exactly one of the wordings does not parse.
"""

from itertools import product

from ippo_trainer.environments.funnel.tables import SENT, STAGES, TYPES
from ippo_trainer.environments.replies import words

SYSTEM_PROMPT = "you help a shop to answer its customers"

SUGGESTIONS: dict[str, tuple[str, ...]] = {
    "ASK": (
        "what do you need it for",
        "what matters most to you",
        "may i ask what you need",
        "can you tell me what matters",
        "what would you use it for",
    ),
    "FEAT": (
        "it is very fast and strong",
        "our best model lasts for years",
        "it comes with a long warranty",
        "this model is of great quality",
        "people like how well it works",
    ),
    "DISC": (
        "i can give you ten percent off",
        "we have a special price today",
        "there is a discount for you",
        "you would save money this week",
        "we can lower the price for you",
    ),
    "CLOSE": (
        "shall i send you the order",
        "would you like to buy it now",
        "i can book it for you today",
        "shall we close the deal now",
        "do you want to order it today",
    ),
    "CHAT": (
        "thanks for your message to us",
        "nice to hear from you today",
        "have a great day my friend",
        "we are happy to have you here",
        "how are you doing today",
    ),
}

GREETINGS = ("hello i saw your shop", "hi there i am looking around", "good day i have a question")

STATUS: tuple[tuple[str, ...], ...] = (
    ("i am still just looking around", "not sure yet to be honest", "i only look for now"),
    ("okay so that is what i need", "yes you know what i need now", "right this is my need"),
    ("thanks i have your offer here", "i got the offer", "okay your offer is clear to me"),
)
"""[stage]: what a customer of that stage says."""

SIGNALS: tuple[tuple[str, ...], ...] = (
    ("the price matters most to me", "my budget is small so mind the price", "it must have a low price"),
    ("the quality matters most to me", "i want a very good quality", "it must be of high quality"),
    ("my time matters most to me", "please be quick i have no time", "it must be here in no time"),
)
"""[signal]: what comes after it if the customer gives a signal of that type."""


_INTENT_OF = {text: index for index, intent in enumerate(SENT) for text in SUGGESTIONS[intent]}
WORDINGS: dict[tuple[int, int | None], tuple[str, ...]] = {
    (stage, signal): tuple(
        f"{status} {hint}".strip()
        for status, hint in product(STATUS[stage], SIGNALS[signal] if signal is not None else ("",))
    )
    for stage in range(len(STAGES))
    for signal in (None, *range(len(TYPES)))
}
"""(stage, signal or None) -> all wordings of such a customer message."""
_STATE_OF = {text: state for state, texts in WORDINGS.items() for text in texts}


def parse_intent(message: str) -> int | None:
    """Index into SENT of the intent of a suggestion or of a sent message; None if it does not parse."""
    return _INTENT_OF.get(message) if message in _INTENT_OF else _INTENT_OF.get(words(message))


def parse_customer(message: str) -> tuple[int, int | None] | None:
    """(stage, signal or None) of a customer message other than the first; None if it does not parse."""
    return _STATE_OF.get(message) or _STATE_OF.get(words(message))


def vocabulary() -> set[str]:
    """Every word that a customer or a suggestion can use."""
    texts = [*_INTENT_OF, *_STATE_OF, *GREETINGS]
    return {word for text in texts for word in text.split()}
