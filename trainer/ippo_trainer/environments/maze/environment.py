"""The double-T maze as an Environment: the customer is a traveller, a suggestion is a move, the outcome is the goal."""

from collections.abc import Sequence

import numpy as np

from ippo_trainer.contract.errors import BadDataError, BadSpecError
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
from ippo_trainer.environments.replies import label_of
from ippo_trainer.environments.scoring import UNPARSED, ExactlySolved, Trace, check_whole
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
        if isinstance(max_turns, bool) or not isinstance(max_turns, int) or not 1 <= max_turns <= MOST_TURNS:
            remedy = f"Give a whole number from 1 to {MOST_TURNS}."
            raise BadSpecError(f"environment.options.max_turns is {max_turns!r}", remedy)
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
        cells = [after(cell, min(_label(text), ABSTAIN)) for cell, text in zip(self._cells, suggestions, strict=True)]
        over = [cell == GOAL or self._turn == self.max_turns for cell in cells]
        steps = [
            Step(
                reaction="accepted" if _label(text) < ABSTAIN else "rejected",
                sent_message=text if text is not None and _label(text) < ABSTAIN else STAY,
                customer_message=None if ended else describe(cell),
                outcome=cell == GOAL,
            )
            for cell, text, ended in zip(cells, suggestions, over, strict=True)
        ]
        self._cells = [cell for cell, ended in zip(cells, over, strict=True) if not ended]
        self._seeds = self._seeds[~np.asarray(over, dtype=bool)]
        return steps

    def demonstrate(self) -> list[str | None]:
        """A random walk: uniform over the four moves."""
        indices = choose(len(MOVES), uniforms(self._seeds, self._turn, _MOVE))
        return [WORDINGS[INTENTS[index]][0] for index in indices]

    def intent_of(self, suggestion: str | None) -> str:
        """One of INTENTS, or UNPARSED."""
        return (*INTENTS, UNPARSED)[_label(suggestion)]

    def trace(self, conversations: Sequence[Conversation]) -> Trace:
        """The cells that the travellers name."""
        rows: list[tuple[int, int, int, int, int]] = []
        for index, conversation in enumerate(conversations):
            check_whole(conversation, self.max_turns)
            for turn, record in enumerate(conversation.turns):
                cell = CELL_OF.get(record.customer_message)
                if cell is None:
                    what = f"customer message {record.customer_message!r:.80} is not of this environment"
                    raise BadDataError(f"conversation {conversation.id}, turn {turn}: {what}")
                label = _label(record.as_shown().suggestion)
                rows.append((index, turn, cell, min(label, ABSTAIN), label))
        return Trace(*np.asarray(rows, dtype=np.int64).reshape(-1, 5).T)

    def _build(self) -> DecisionProblem:
        return build(self.max_turns)


def _label(suggestion: str | None) -> int:
    return label_of(suggestion, lambda text: _INTENT_OF.get(" ".join(text.lower().split())), ABSTAIN)
