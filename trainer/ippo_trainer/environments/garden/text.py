"""The words of the garden: each kind of advice in 30 wordings, each state that an owner sees in twelve."""

from itertools import product

from ippo_trainer.environments.garden.rules import MOISTURES, SENT, SIZES
from ippo_trainer.environments.replies import words

SYSTEM_PROMPT = "you help people with their plants"

_OPENINGS = ("", "please", "this week", "i would say", "it is best to", "you could")
_ADVICE = {
    "WATER": ("water it well", "give it a can of water", "pour some water on it", "let it drink", "water the soil"),
    "FEED": ("feed it", "give it plant food", "add some compost", "mix food into the soil", "put food on the roots"),
    "PRUNE": ("cut it back", "take the tips off", "prune the stems", "trim it with scissors", "shorten the shoots"),
    "WAIT": ("leave it alone", "wait and watch", "do nothing yet", "let it rest", "give it time"),
}
SUGGESTIONS: dict[str, tuple[str, ...]] = {
    name: tuple(f"{opening} {advice}".strip() for opening, advice in product(_OPENINGS, _ADVICE[name])) for name in SENT
}
_SOIL = (
    ("the soil is dry", "the soil is dust", "the pot is very light", "the leaves hang down"),
    ("the soil is moist", "the soil is fine", "the pot feels right", "the leaves stand up"),
    ("the soil is wet", "the soil is mud", "water stands in the pot", "the pot is heavy"),
)
_GROWTH = (
    ("it is a seedling", "it is tiny", "it has two leaves"),
    ("it is small", "it has some leaves", "it is a hand high"),
    ("it is bushy", "it has many leaves", "it is as high as my knee"),
    ("it has buds", "buds are on it", "it is in bud"),
)
WORDINGS: dict[tuple[int, int], tuple[str, ...]] = {
    (moisture, size): tuple(f"{soil} and {growth}" for soil, growth in product(_SOIL[moisture], _GROWTH[size]))
    for moisture in range(len(MOISTURES))
    for size in range(len(SIZES))
}
"""(moisture, size) -> what an owner may say of it."""

_INTENT_OF = {text: index for index, name in enumerate(SENT) for text in SUGGESTIONS[name]}
_STATE_OF = {text: state for state, texts in WORDINGS.items() for text in texts}


def parse_advice(message: str) -> int | None:
    """Index into SENT; None if it is none of the wordings."""
    return _INTENT_OF.get(words(message))


def parse_owner(message: str) -> tuple[int, int] | None:
    """(moisture, size) of what an owner said; None if it is none of the wordings."""
    return _STATE_OF.get(words(message))
