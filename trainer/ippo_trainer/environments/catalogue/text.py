"""The words of the shop: each suggestion in three wordings, customers in two for each state, and the catalogue."""

from collections.abc import Mapping
from typing import Any

from ippo_trainer.data.context import context_of
from ippo_trainer.environments.catalogue.rules import CATALOGUES, ON_OFFER, PRODUCTS, SENT, STAGES, STATUSES
from ippo_trainer.environments.replies import words

SYSTEM_PROMPT = "you help customers of a shop"

_OFFERS = ("how about {}", "try our {}", "may i offer you {}")
_QUESTIONS = ("what do you feel like", "what may it be today", "shall i tell you more")
SUGGESTIONS: dict[str, tuple[str, ...]] = {
    **{name: tuple(offer.format(product) for offer in _OFFERS) for name, product in zip(SENT, PRODUCTS, strict=False)},
    SENT[-1]: _QUESTIONS,
}
_CUSTOMERS = (
    ("i am just looking", "i have a little time"),
    ("i am ready to order", "what can i have"),
)
_REMARKS = ("that is as usual", "that is on offer")
"""[status] of what was offered."""
_INTENT_OF = {text: index for index, name in enumerate(SENT) for text in SUGGESTIONS[name]}
_STAGE_OF = {text: stage for stage in range(len(STAGES)) for text in _CUSTOMERS[stage]}
_CUSTOMER_OF = {
    f"{remark} {text}".strip(): (stage, status)
    for text, stage in _STAGE_OF.items()
    for remark, status in (("", None), *zip(_REMARKS, range(len(STATUSES)), strict=True))
}
WORDINGS_OF_A_STATE = len(_CUSTOMERS[0])


def catalogue_json(catalogue: int) -> dict[str, Any]:
    """The catalogue as the agent is given it."""
    return {STATUSES[ON_OFFER]: PRODUCTS[catalogue]}


_CATALOGUE_OF: Mapping[str, int] = {context_of("context", catalogue_json(each)): each for each in CATALOGUES}


def customer_text(stage: int, status: int | None, wording: int) -> str:
    """What a customer says: of what was offered, if something was, and of the state."""
    text = _CUSTOMERS[stage][wording]
    return text if status is None else f"{_REMARKS[status]}, {text}"


def parse_suggestion(message: str) -> int | None:
    """Index into SENT; None if it is none of the wordings."""
    return _INTENT_OF.get(words(message))


def parse_customer(message: str) -> tuple[int, int | None] | None:
    """(stage, status of what was offered or None) of what a customer said; None if it is none of the wordings."""
    return _CUSTOMER_OF.get(words(message))


def parse_catalogue(context: str) -> int | None:
    """The catalogue that a context is; None if it is none."""
    return _CATALOGUE_OF.get(context)
