"""The catalogue shop as an Environment: a suggestion offers a product or asks a question, the outcome is a sale."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cached_property

import numpy as np

from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.data.context import context_of
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.catalogue import rules, text
from ippo_trainer.environments.catalogue.exact import build, visits_by_turn
from ippo_trainer.environments.catalogue.rules import CATALOGUES, INTENTS, SENT, Visit
from ippo_trainer.environments.problem import DecisionProblem
from ippo_trainer.environments.protocol import LadderRow, Opening, Step
from ippo_trainer.environments.replies import responses, sent_messages
from ippo_trainer.environments.scoring import ExactlySolved, check_turns
from ippo_trainer.environments.streams import as_seeds, categorical, choose, uniforms

MAX_TURNS = 16
BLIND = "context-blind"
"""In the ladder: the best that anybody can do who does not see the catalogue."""


class _Draw(IntEnum):
    """Purposes of random numbers."""

    CATALOGUE, STAGE, WORDS, REACTION, OWN, SENT_WORDS, BUYS, WAY, INTENT, INTENT_WORDS = range(10)


class CatalogueShop(ExactlySolved):
    """Customers of a shop whose catalogue changes by conversation.

    Args:
        horizon: turns after which the customer leaves.
        catalogue: whether the agent is given the catalogue as the conversation's context.
    """

    system_prompt = text.SYSTEM_PROMPT
    intents = INTENTS
    wordings = text.SUGGESTIONS

    def __init__(self, horizon: int = 3, catalogue: bool = True) -> None:
        check_turns("horizon", horizon, MAX_TURNS)
        if not isinstance(catalogue, bool):
            raise BadSpecError(f"environment.options.catalogue is {catalogue!r}", "Give true or false.")
        self.max_turns, self._shown = horizon, catalogue
        self.reset([])

    def reset(self, seeds: Sequence[int]) -> list[Opening]:
        """Gives every conversation a catalogue, and its customer a word."""
        self._seeds, self._turn = as_seeds(seeds), 0
        catalogues = choose(len(CATALOGUES), self._draw(_Draw.CATALOGUE))
        stages = categorical(np.asarray(rules.START), self._draw(_Draw.STAGE))
        self._visits = [
            Visit(int(stage), (int(catalogue),)) for stage, catalogue in zip(stages, catalogues, strict=True)
        ]
        return [
            Opening(message, self._context(visit.catalogues[0]))
            for visit, message in zip(self._visits, self._texts(self._visits, [None] * len(seeds)), strict=True)
        ]

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """One turn of every conversation that is still open."""
        if len(suggestions) != len(self._visits):
            raise ValueError(f"{len(suggestions)} suggestions for {len(self._visits)} open conversations")
        reactions, sent = self._respond(suggestions)
        wordings = [text.SUGGESTIONS[SENT[action]] for action in sent]
        messages = sent_messages(suggestions, reactions, wordings, self._draw(_Draw.SENT_WORDS))
        bought, over, following, statuses = [], [], [], []
        for visit, action, x, way in zip(
            self._visits, sent, self._draw(_Draw.BUYS), self._draw(_Draw.WAY), strict=True
        ):
            buys = bool(x < rules.buys(visit, action))
            options = rules.ways(visit, action)
            shares = np.array([option.probability for option in options])
            option = options[int(categorical(shares / shares.sum(), np.asarray([way]))[0])]
            bought.append(buys)
            over.append(buys or option.after is None or self._turn + 1 == self.max_turns)
            following.append(option.after or visit)
            statuses.append(option.status)
        self._turn += 1
        texts = self._texts(following, statuses)
        steps = [
            Step(REACTIONS[each], message, None if ended else said, sale)
            for each, message, ended, said, sale in zip(reactions, messages, over, texts, bought, strict=True)
        ]
        self._visits = [visit for visit, ended in zip(following, over, strict=True) if not ended]
        self._seeds = self._seeds[~np.asarray(over, dtype=bool)]
        return steps

    def demonstrate(self) -> list[str | None]:
        """The suggestions of somebody who seldom looks at the catalogue."""
        tables = np.asarray([rules.base(visit.stage, visit.catalogues[0]) for visit in self._visits])
        tables = tables.reshape(-1, len(INTENTS))
        return self._wordings_of(categorical(tables, self._draw(_Draw.INTENT)), self._draw(_Draw.INTENT_WORDS))

    def ladder(self, discount: float) -> list[LadderRow]:
        """Reference policies, and the best one that does not see the catalogue."""
        rows = super().ladder(discount)
        if not self._shown:
            return rows
        best = CatalogueShop(self.max_turns, catalogue=False).ladder(discount)[0]
        return [rows[0], LadderRow(BLIND, best.value, best.success), *rows[1:]]

    def _states(self, conversation: Conversation) -> Iterator[int]:
        """Follows what is known of the catalogue by the context, what was sent and what the customer said."""
        catalogues, sent = self._catalogues(conversation), None
        for turn, record in enumerate(conversation.turns):
            where = f"conversation {conversation.id}, turn {turn}"
            stage, catalogues = self._after_message(record, catalogues, sent, where)
            sent = text.parse_suggestion(record.sent_message)
            if sent is None:
                raise BadDataError(f"{where}: the sent message {record.sent_message!r:.80} is not of this environment")
            place = self._places[turn].get(Visit(stage, catalogues))
            if place is None:
                raise BadDataError(f"{where}: no customer is like that by then")
            yield place

    def _parse(self, suggestion: str) -> int | None:
        return text.parse_suggestion(suggestion)

    def _catalogues(self, conversation: Conversation) -> tuple[int, ...]:
        """The catalogues that are possible before anything is said."""
        if not self._shown:
            return tuple(CATALOGUES)
        number = text.parse_catalogue(conversation.context)
        if number is None:
            raise BadDataError(
                f"conversation {conversation.id}: the context {conversation.context!r:.80} is no catalogue of this shop"
            )
        return (number,)

    def _after_message(
        self, record: Turn, catalogues: tuple[int, ...], sent: int | None, where: str
    ) -> tuple[int, tuple[int, ...]]:
        """The customer's stage, and what is known of the catalogue by what the customer says of the offer."""
        reading = text.parse_customer(record.customer_message)
        offered = sent is not None and sent != rules.ASK
        if reading is None or (reading[1] is not None) != offered:
            raise BadDataError(f"{where}: customer message {record.customer_message!r:.80} is not of this environment")
        stage, status = reading
        if sent is None or status is None:
            return stage, catalogues
        return stage, tuple(catalogue for catalogue in catalogues if rules.status_in(catalogue, sent) == status)

    def _build(self) -> DecisionProblem:
        return build(self.max_turns, self._shown)

    @cached_property
    def _places(self) -> list[dict[Visit, int]]:
        """By turn, the number of each state."""
        by_turn = visits_by_turn(self.max_turns, self._shown)
        return [{visit: number for number, visit in enumerate(visits)} for visits in by_turn]

    def _context(self, catalogue: int) -> str:
        return context_of("context", text.catalogue_json(catalogue)) if self._shown else ""

    def _draw(self, purpose: int) -> np.ndarray:
        return uniforms(self._seeds, self._turn, purpose)

    def _respond(self, suggestions: Sequence[str | None]) -> tuple[list[int], list[int]]:
        """Reactions, and what is sent (indices into SENT)."""
        own = categorical(np.tile(rules.OWN, (len(suggestions), 1)), self._draw(_Draw.OWN))
        accepts = [rules.ACCEPTS] * len(suggestions)
        return responses(map(self.label_of, suggestions), accepts, rules.EDITS, own, self._draw(_Draw.REACTION))

    def _texts(self, visits: Sequence[Visit], statuses: Sequence[int | None]) -> list[str]:
        wordings = choose(text.WORDINGS_OF_A_STATE, self._draw(_Draw.WORDS))
        return [
            text.customer_text(visit.stage, status, int(wording))
            for visit, status, wording in zip(visits, statuses, wordings, strict=True)
        ]
