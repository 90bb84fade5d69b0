"""How a plant fares: what a week makes of it, given what its owner was advised. All randomness is in tables.

Three effects come late. Food acts after three weeks, well in moist soil and badly in any other. A plant that was never
cut stops growing before it can flower, yet a cut costs a size at once, does nothing for a seedling, and owners do not
like it. And a plant flowers only once it has grown, so nothing before has an outcome.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

DRY, MOIST, WET = range(3)
MOISTURES = ("dry", "moist", "wet")
SIZES = ("seedling", "small", "bushy", "in bud")
TOP = len(SIZES) - 1
STALLS = 2
"""A plant that was never cut grows no larger."""
FEEDING = 3
"""Weeks until food acts."""

SENT = ("WATER", "FEED", "PRUNE", "WAIT")
WATER, FEED, PRUNE, WAIT = range(len(SENT))
INTENTS = (*SENT, "ABSTAIN")
ABSTAIN = len(SENT)

START = (0.4, 0.4, 0.2)
"""[moisture] of a seedling when the conversation begins."""
DRIES = 0.55
"""Probability that the soil is a step drier after a week."""
GROWS = (0.05, 0.45, 0.1)
"""[moisture]"""
FED_GROWS, FED_SHRINKS = 0.9, 0.6
"""When food acts: in moist soil, and in any other."""
FLOWERS = (
    (0.1, 0.25, 0.05),
    (0.05, 0.1, 0.05),
    (0.0, 0.0, 0.0),
    (0.15, 0.65, 0.15),
)
"""[sent, moisture] of a plant in bud."""
LEAVES, LEAVES_DRY_OR_WET, LEAVES_PRUNED = 0.01, 0.02, 0.06
"""Probability that the owner gives up, and what is added to it."""
ACCEPTS = (
    (0.95, 0.75, 0.35, 0.6),
    (0.85, 0.8, 0.45, 0.8),
    (0.5, 0.8, 0.45, 0.9),
)
"""[moisture, sent]: that the business sends the suggestion as it is."""
EDITS = 0.4
"""Share of what it does not: sent in other words."""
OWN = (
    (0.8, 0.1, 0.0, 0.1),
    (0.55, 0.2, 0.02, 0.23),
    (0.35, 0.2, 0.02, 0.43),
)
"""[moisture, sent]: what the business sends instead of the rest."""
BASE = (
    (0.5, 0.18, 0.06, 0.2, 0.06),
    (0.42, 0.22, 0.06, 0.22, 0.08),
    (0.34, 0.22, 0.06, 0.3, 0.08),
)
"""[moisture, intent]: what the scripted business suggests."""


class Plant(NamedTuple):
    """A plant at the beginning of a week."""

    moisture: int
    size: int
    cut: int
    """1 once it was cut."""
    feed: int
    """Weeks until food acts; 0 if none was given."""


def flowers(plant: Plant, sent: int) -> float:
    """Probability of the outcome in this week."""
    return FLOWERS[sent][plant.moisture] if plant.size == TOP else 0.0


def leaves(plant: Plant, sent: int) -> float:
    """Probability that the owner gives up in this week, if the plant does not flower."""
    return LEAVES + LEAVES_DRY_OR_WET * (plant.moisture != MOIST) + LEAVES_PRUNED * (sent == PRUNE)


def next_plants(plant: Plant, sent: int) -> dict[Plant, float]:
    """The plant a week later, if it neither flowers nor is given up: probabilities that sum to 1."""
    cut = 1 if sent == PRUNE and plant.size > 0 else plant.cut
    feed = FEEDING if sent == FEED and not plant.feed else max(0, plant.feed - 1)
    result: dict[Plant, float] = {}
    for (moisture, of_moisture), (size, of_size) in product(_moistures(plant, sent), _sizes(plant, sent)):
        after = Plant(moisture, size, cut, feed)
        result[after] = result.get(after, 0.0) + of_moisture * of_size
    return {after: probability for after, probability in result.items() if probability > 0}


def _moistures(plant: Plant, sent: int) -> Iterator[tuple[int, float]]:
    watered = min(WET, plant.moisture + (sent == WATER))
    yield max(DRY, watered - 1), DRIES
    yield watered, 1 - DRIES


def _sizes(plant: Plant, sent: int) -> Iterator[tuple[int, float]]:
    """A cut, food that acts, or growth by itself: one of them."""
    smaller, larger = max(0, plant.size - 1), min(plant.size + 1, TOP if plant.cut else STALLS)
    larger = max(larger, plant.size)
    if sent == PRUNE:
        change, probability = smaller, 1.0
    elif plant.feed == 1 and plant.moisture == MOIST:
        change, probability = larger, FED_GROWS
    elif plant.feed == 1:
        change, probability = smaller, FED_SHRINKS
    else:
        change, probability = larger, GROWS[plant.moisture]
    yield change, probability
    yield plant.size, 1 - probability


def after_sent(plant: Plant, sent: int, moisture: int, size: int) -> Plant:
    """The plant of the next week by what its owner tells; what is not told follows from what was sent."""
    following = next(iter(next_plants(plant, sent)))
    return Plant(moisture, size, following.cut, following.feed)
