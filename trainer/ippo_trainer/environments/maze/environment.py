"""The double-T maze as an Environment: the customer is a traveller, a suggestion is a move, the outcome is the goal."""

from collections.abc import Iterator, Sequence

import numpy as np

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.maze.exact import build
from ippo_trainer.environments.maze.layout import (
    ABSTAIN,
    CELL_OF,
    CELLS,
    GOAL,
    INTENTS,
    MOVES,
    STAY,
    SYSTEM_PROMPT,
    WORDINGS,
    after,
    describe,
)
from ippo_trainer.environments.problem import DecisionProblem
from ippo_trainer.environments.protocol import Step
from ippo_trainer.environments.scoring import ExactlySolved, check_turns
from ippo_trainer.environments.streams import as_seeds, choose, uniforms

MOST_TURNS = 1000
_INTENT_OF = {text: index for index, name in enumerate(MOVES) for text in WORDINGS[name]}
_START, _MOVE = range(2)


class Maze(ExactlySolved):
    """A traveller who moves as told, from a random cell towards the goal.

    What is not one of the four moves is rejected, and the traveller stays.

    Args:
        max_turns: after so many the traveller gives up. 100 is LMRL-Gym's; language models learn faster with 20 to 30.
    """

    system_prompt = SYSTEM_PROMPT
    intents = INTENTS
    wordings = WORDINGS

    def __init__(self, max_turns: int = 100) -> None:
        check_turns("max_turns", max_turns, MOST_TURNS)
        self.max_turns = max_turns
        self.reset([])

    def reset(self, seeds: Sequence[int]) -> list[str]:
        """Puts one traveller per seed in a random cell."""
        self._seeds = as_seeds(seeds)
        self._cells = [CELLS[index] for index in choose(len(CELLS), uniforms(self._seeds, 0, _START))]
        self._turn = 0
        return [describe(cell) for cell in self._cells]

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """Moves every traveller who is still on the way."""
        if len(suggestions) != len(self._cells):
            raise ValueError(f"{len(suggestions)} suggestions for {len(self._cells)} open conversations")
        self._turn += 1
        moves = [min(self.label_of(text), ABSTAIN) for text in suggestions]
        cells = [after(cell, move) for cell, move in zip(self._cells, moves, strict=True)]
        over = [cell == GOAL or self._turn == self.max_turns for cell in cells]
        steps = [
            Step(
                reaction="accepted" if move < ABSTAIN else "rejected",
                sent_message=text if text is not None and move < ABSTAIN else STAY,
                customer_message=None if ended else describe(cell),
                outcome=cell == GOAL,
            )
            for cell, text, move, ended in zip(cells, suggestions, moves, over, strict=True)
        ]
        self._cells = [cell for cell, ended in zip(cells, over, strict=True) if not ended]
        self._seeds = self._seeds[~np.asarray(over, dtype=bool)]
        return steps

    def demonstrate(self) -> list[str | None]:
        """A random walk: uniform over the four moves."""
        indices = choose(len(MOVES), uniforms(self._seeds, self._turn, _MOVE))
        return [WORDINGS[INTENTS[index]][0] for index in indices]

    def _states(self, conversation: Conversation) -> Iterator[int]:
        """The cells that the traveller names."""
        for turn, record in enumerate(conversation.turns):
            cell = CELL_OF.get(record.customer_message)
            if cell is None:
                what = f"customer message {record.customer_message!r:.80} is not of this environment"
                raise BadDataError(f"conversation {conversation.id}, turn {turn}: {what}")
            yield cell

    def _parse(self, suggestion: str) -> int | None:
        return _INTENT_OF.get(" ".join(suggestion.lower().split()))

    def _build(self) -> DecisionProblem:
        return build(self.max_turns)
