"""What customers of the shop do, and its business. All randomness is in tables.

Each conversation has a catalogue of its own: one product is on offer, the others are as usual. A customer who is ready
buys what is on offer gladly. Nothing else in a conversation hints at the catalogue until a product was offered: then
the customer says what it was like.
"""

from typing import NamedTuple

PRODUCTS = ("cake", "cocoa", "coffee", "tea")
USUAL, ON_OFFER = range(2)
STATUSES = ("as usual", "on offer")
BROWSING, READY = range(2)
STAGES = ("browsing", "ready")

SENT = (*(f"OFFER_{product.upper()}" for product in PRODUCTS), "ASK")
ASK = len(PRODUCTS)
INTENTS = (*SENT, "ABSTAIN")
ABSTAIN = len(SENT)

START = (0.3, 0.7)
"""[stage] of a customer who comes."""
BUYS = ((0.02, 0.1), (0.05, 0.9))
"""[stage, status of what is offered]"""
LEAVES = (0.5, 0.05)
"""[status of what is offered], if it is not bought."""
LEAVES_ASKED = 0.04
MOVES = 0.7
"""Probability that a question makes a browsing customer ready."""
ACCEPTS = (0.9, 0.9, 0.9, 0.9, 0.8)
"""[sent]: that the business sends the suggestion as it is. It does not look at the catalogue."""
EDITS = 0.4
"""Share of what it does not: sent in other words."""
OWN = (0.15, 0.15, 0.15, 0.15, 0.4)
"""[sent]: what the business sends instead of the rest."""
BASE = (
    (0.14, 0.14, 0.14, 0.14, 0.34, 0.1),
    (0.2, 0.2, 0.2, 0.2, 0.1, 0.1),
)
"""[stage, intent]: what the scripted business suggests that does not look at the catalogue."""
LOOKS = 0.12
"""How often it does look, once a customer is ready, and suggests what is on offer."""


CATALOGUES = range(len(PRODUCTS))
"""A catalogue is the product that is on offer (index)."""


def status_in(catalogue: int, product: int) -> int:
    """Of a product in a catalogue: index into STATUSES."""
    return ON_OFFER if product == catalogue else USUAL


def base(stage: int, catalogue: int | None) -> list[float]:
    """[intent]: what the scripted business suggests; without a catalogue, as seen by who does not know it."""
    looks = LOOKS if stage == READY else 0.0
    row = [(1 - looks) * share for share in BASE[stage]]
    for product in range(len(PRODUCTS)):
        row[product] += looks / len(PRODUCTS) if catalogue is None else looks * (product == catalogue)
    return row


class Visit(NamedTuple):
    """What is known of a conversation: the customer, and the catalogues that are possible."""

    stage: int
    catalogues: tuple[int, ...]


class Way(NamedTuple):
    """One thing that may come of a message: its probability, and what is known then; None: the customer leaves."""

    probability: float
    after: Visit | None
    status: int | None = None
    """Of the product that was offered, as the customer tells."""


def buys(visit: Visit, sent: int) -> float:
    """Probability that the customer buys what is offered."""
    if sent == ASK:
        return 0.0
    statuses = [status_in(catalogue, sent) for catalogue in visit.catalogues]
    return sum(BUYS[visit.stage][status] for status in statuses) / len(statuses)


def ways(visit: Visit, sent: int) -> list[Way]:
    """What else may come of it; with `buys` the probabilities sum to 1."""
    if sent == ASK:
        moved = MOVES if visit.stage == BROWSING else 0.0
        stays = 1 - LEAVES_ASKED
        return [
            Way(LEAVES_ASKED, None),
            Way(stays * moved, visit._replace(stage=READY)),
            Way(stays * (1 - moved), visit),
        ]
    result = []
    for status in range(len(STATUSES)):
        rest = tuple(catalogue for catalogue in visit.catalogues if status_in(catalogue, sent) == status)
        if rest:
            refused = (1 - BUYS[visit.stage][status]) * len(rest) / len(visit.catalogues)
            result.append(Way(refused * LEAVES[status], None))
            result.append(Way(refused * (1 - LEAVES[status]), Visit(visit.stage, rest), status))
    return result
