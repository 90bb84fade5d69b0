"""The states of logged conversations, and batches of conversations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.schema import Conversation

_CACHED_CONVERSATIONS = 4096


@dataclass(frozen=True, slots=True)
class LoggedState:
    """The prompt that the policy answers at one turn of a conversation."""

    conversation: str
    turn: int
    prompt: list[int]


class LoggedStates:
    """The states of some conversations, rendered when they are asked for.

    States after the outcome are terminal (Suggested Response MDP: the outcome ends the episode), so they are left out,
    and conversations without any other state with them.
    """

    def __init__(self, conversations: Sequence[Conversation], renderer: Any) -> None:
        self._conversations = [each for each in conversations if each.turns and not each.turns[0].outcome]
        self._renderer = renderer
        self.of = lru_cache(_CACHED_CONVERSATIONS)(self._render)

    def __len__(self) -> int:
        return len(self._conversations)

    def _render(self, number: int) -> tuple[LoggedState, ...]:
        """The states of conversation `number`, by turn. BadDataError for a message too long for the context."""
        conversation = self._conversations[number]
        return tuple(
            LoggedState(conversation.id, index, self._prompt(conversation, index).ids)
            for index, turn in enumerate(conversation.turns)
            if not turn.outcome
        )

    def size(self, number: int) -> int:
        """How many states conversation `number` has."""
        return sum(not turn.outcome for turn in self._conversations[number].turns)

    def longest(self) -> int:
        """Tokens of the longest prompt, at most."""
        # Of prompts that lost old turns, an earlier one may be longer.
        most = (
            self._renderer.max_prompt_tokens if last.dropped_turns else len(last.ids) for last in self._last_prompts()
        )
        return max(most)

    def _prompt(self, conversation: Conversation, index: int) -> Any:
        return self._renderer.prompt_at(conversation, index)

    def count_shortened(self) -> int:
        """Conversations of which some prompt lost old turns to fit the context: the last one, then."""
        return sum(prompt.dropped_turns > 0 for prompt in self._last_prompts())

    def _last_prompts(self) -> Iterator[Any]:
        """By conversation, rendered for this."""
        return (self._prompt(each, self.size(number) - 1) for number, each in enumerate(self._conversations))


class BatchStream:
    """An endless stream of batches of conversation numbers: one shuffle after another, any batch by its position."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, min(batch_size, count), seed
        self._order = lru_cache(2)(self._shuffle)

    def batch(self, position: int) -> list[int]:
        """Numbers of batch `position`, counted from 0. A batch may span two shuffles."""
        start = position * self.batch_size
        places = [divmod(index, self.count) for index in range(start, start + self.batch_size)]
        return list(dict.fromkeys(int(self._order(turn)[offset]) for turn, offset in places))

    def _shuffle(self, turn: int) -> Any:
        return np.random.Generator(np.random.Philox(derive_seed(self.seed, "shuffle", turn))).permutation(self.count)
