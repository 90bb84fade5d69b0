"""The garden as an Environment: the customer owns a plant, a suggestion is advice, the outcome is a flower."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cached_property, lru_cache

import numpy as np

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.garden import rules
from ippo_trainer.environments.garden.exact import build, plants_by_week
from ippo_trainer.environments.garden.rules import INTENTS, SENT, Plant
from ippo_trainer.environments.garden.text import SUGGESTIONS, SYSTEM_PROMPT, WORDINGS, parse_advice, parse_owner
from ippo_trainer.environments.problem import DecisionProblem
from ippo_trainer.environments.protocol import Step
from ippo_trainer.environments.replies import responses, sent_messages
from ippo_trainer.environments.scoring import ExactlySolved, check_turns
from ippo_trainer.environments.streams import as_seeds, categorical, pick, uniforms

MAX_WEEKS = 64
_next_plants = lru_cache(1024)(rules.next_plants)


class _Draw(IntEnum):
    """Purposes of random numbers."""

    START, WORDS, REACTION, OWN, SENT_WORDS, ENDS, NEXT, INTENT, INTENT_WORDS = range(9)


class Garden(ExactlySolved):
    """Owners of plants who ask a shop for advice, week by week, until the plant flowers or they give up.

    Args:
        horizon: weeks after which the season is over, without a flower.
    """

    system_prompt = SYSTEM_PROMPT
    intents = INTENTS
    wordings = SUGGESTIONS

    def __init__(self, horizon: int = 20) -> None:
        check_turns("horizon", horizon, MAX_WEEKS)
        self.max_turns = horizon
        self.reset([])

    def reset(self, seeds: Sequence[int]) -> list[str]:
        """Gives every owner a seedling."""
        self._seeds, self._week = as_seeds(seeds), 0
        moistures = categorical(np.asarray(rules.START), self._draw(_Draw.START))
        self._plants = [Plant(int(moisture), 0, 0, 0) for moisture in moistures]
        return self._owners_texts(self._plants, self._draw(_Draw.WORDS))

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """One week of every plant that is still cared for."""
        if len(suggestions) != len(self._plants):
            raise ValueError(f"{len(suggestions)} suggestions for {len(self._plants)} open conversations")
        reactions, sent = self._respond(suggestions)
        wordings = [SUGGESTIONS[SENT[action]] for action in sent]
        messages = sent_messages(suggestions, reactions, wordings, self._draw(_Draw.SENT_WORDS))
        ends, ways = self._draw(_Draw.ENDS), self._draw(_Draw.NEXT)
        flowered, over, following = [], [], []
        for plant, action, end, way in zip(self._plants, sent, ends, ways, strict=True):
            flower = rules.flowers(plant, action)
            flowered.append(bool(end < flower))
            end_of_season = end < flower + (1 - flower) * rules.leaves(plant, action)
            over.append(bool(end_of_season) or self._week + 1 == self.max_turns)
            table = _next_plants(plant, action)
            following.append(list(table)[int(categorical(np.asarray(list(table.values())), np.asarray([way]))[0])])
        self._week += 1
        texts = self._owners_texts(following, self._draw(_Draw.WORDS))
        steps = [
            Step(REACTIONS[each], message, None if ended else text, flower)
            for each, message, ended, text, flower in zip(reactions, messages, over, texts, flowered, strict=True)
        ]
        self._plants = [plant for plant, ended in zip(following, over, strict=True) if not ended]
        self._seeds = self._seeds[~np.asarray(over, dtype=bool)]
        return steps

    def demonstrate(self) -> list[str | None]:
        """The advice of somebody who has not seen a whole season."""
        tables = np.asarray([rules.BASE[plant.moisture] for plant in self._plants]).reshape(-1, len(INTENTS))
        return self._wordings_of(categorical(tables, self._draw(_Draw.INTENT)), self._draw(_Draw.INTENT_WORDS))

    def _states(self, conversation: Conversation) -> Iterator[int]:
        """Follows the plant by what its owner tells and what was sent."""
        before: tuple[Plant, int] | None = None
        for turn, record in enumerate(conversation.turns):
            plant, action = self._read(record, before, f"conversation {conversation.id}, turn {turn}")
            if plant not in self._places[turn]:
                raise BadDataError(f"conversation {conversation.id}, turn {turn}: no plant is like that by then")
            yield self._places[turn][plant]
            before = plant, action

    def _parse(self, suggestion: str) -> int | None:
        return parse_advice(suggestion)

    def _build(self) -> DecisionProblem:
        return build(self.max_turns)

    @cached_property
    def _places(self) -> list[dict[Plant, int]]:
        """By week, the number of each plant."""
        return [{plant: number for number, plant in enumerate(plants)} for plants in plants_by_week(self.max_turns)]

    def _draw(self, purpose: int) -> np.ndarray:
        return uniforms(self._seeds, self._week, purpose)

    def _respond(self, suggestions: Sequence[str | None]) -> tuple[list[int], list[int]]:
        """Reactions, and what is sent (indices into SENT)."""
        tables = np.asarray([rules.OWN[plant.moisture] for plant in self._plants]).reshape(-1, len(SENT))
        own = categorical(tables, self._draw(_Draw.OWN))
        accepts = [rules.ACCEPTS[plant.moisture] for plant in self._plants]
        return responses(map(self.label_of, suggestions), accepts, rules.EDITS, own, self._draw(_Draw.REACTION))

    def _owners_texts(self, plants: Sequence[Plant], words: np.ndarray) -> list[str]:
        return [pick(WORDINGS[plant.moisture, plant.size], x) for plant, x in zip(plants, words, strict=True)]

    def _read(self, record: Turn, before: tuple[Plant, int] | None, where: str) -> tuple[Plant, int]:
        """The plant of a turn, and what was sent."""
        look, sent = parse_owner(record.customer_message), parse_advice(record.sent_message)
        if look is None:
            raise BadDataError(f"{where}: customer message {record.customer_message!r:.80} is not of this environment")
        if sent is None:
            raise BadDataError(f"{where}: the sent message {record.sent_message!r:.80} is not of this environment")
        return (Plant(*look, 0, 0) if before is None else rules.after_sent(*before, *look)), sent
