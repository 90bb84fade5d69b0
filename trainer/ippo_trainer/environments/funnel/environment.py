"""SR-funnel in text: an Environment that is vectorised over conversations."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.funnel.dynamics import ACCEPTED, EDITED, Draw, Dynamics, Turns
from ippo_trainer.environments.funnel.exact import build
from ippo_trainer.environments.funnel.histories import states
from ippo_trainer.environments.funnel.tables import ABSTAIN, INTENTS, SENT, Tables
from ippo_trainer.environments.funnel.text import GREETINGS, SUGGESTIONS, SYSTEM_PROMPT, WORDINGS, parse_intent
from ippo_trainer.environments.problem import DecisionProblem
from ippo_trainer.environments.protocol import Step
from ippo_trainer.environments.scoring import ExactlySolved, check_turns
from ippo_trainer.environments.streams import as_seeds, categorical, choose, pick, uniforms

MAX_HORIZON = 64


class Funnel(ExactlySolved):
    """Customers of a shop who have to be asked, won and asked to buy.

    Args:
        horizon: turns after which the conversation ends without a purchase.
        tables: path of a JSON file with other numbers; see `Tables`.
    """

    system_prompt = SYSTEM_PROMPT
    intents = INTENTS
    wordings = SUGGESTIONS

    def __init__(self, horizon: int = 6, tables: str = "") -> None:
        check_turns("horizon", horizon, MAX_HORIZON)
        self.max_turns = horizon
        self.tables = Tables.from_file(Path(tables)) if tables else Tables()
        self._dynamics = Dynamics(self.tables)
        self.reset([])

    def reset(self, seeds: Sequence[int]) -> list[str]:
        """Starts one conversation per seed and returns the customers' first messages."""
        self._seeds = as_seeds(seeds)
        self._types = self._dynamics.types(self._seeds)
        self._stage = np.zeros(len(seeds), dtype=np.int64)
        self._turn = 0
        indices = choose(len(GREETINGS), uniforms(self._seeds, 0, Draw.GREETING))
        return [GREETINGS[index] for index in indices]

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """One turn of every open conversation; those that end are left out of the next one."""
        if len(suggestions) != len(self._seeds):
            raise ValueError(f"{len(suggestions)} suggestions for {len(self._seeds)} open conversations")
        intents = np.array([min(self.label_of(suggestion), ABSTAIN) for suggestion in suggestions], dtype=np.int64)
        turns = self._dynamics.turn(self._seeds, self._turn, self._types, self._stage, intents)
        last = self._turn + 1 == self.max_turns
        steps = self._render(suggestions, intents, turns, last)
        stays = ~(turns.leaves | turns.buys) if not last else np.zeros(len(steps), dtype=bool)
        self._seeds, self._types, self._stage = self._seeds[stays], self._types[stays], turns.stage[stays]
        self._turn += 1
        return steps

    def demonstrate(self) -> list[str | None]:
        """Suggestions of the base policy pi_0 for the open conversations."""
        intents = categorical(np.asarray(self.tables.base_policy), uniforms(self._seeds, self._turn, Draw.INTENT))
        return self._wordings_of(intents, uniforms(self._seeds, self._turn, Draw.INTENT_WORDING))

    def _states(self, conversation: Conversation) -> Iterator[int]:
        return states(self.problem, conversation)

    def _parse(self, suggestion: str) -> int | None:
        return parse_intent(suggestion)

    def _build(self) -> DecisionProblem:
        return build(self.tables, self.max_turns)

    def _render(self, suggestions: Sequence[str | None], intents: np.ndarray, turns: Turns, last: bool) -> list[Step]:
        sent_u = uniforms(self._seeds, self._turn, Draw.SENT_WORDING)
        customer_u = uniforms(self._seeds, self._turn, Draw.CUSTOMER_WORDING)
        steps = []
        for i, suggestion in enumerate(suggestions):
            wordings = SUGGESTIONS[SENT[turns.sent[i]]]
            if turns.reaction[i] == ACCEPTED and suggestion is not None:
                sent = suggestion
            elif turns.reaction[i] == EDITED and turns.sent[i] == intents[i]:
                sent = pick([text for text in wordings if text != suggestion], sent_u[i])
            else:
                sent = pick(wordings, sent_u[i])
            over = last or turns.leaves[i] or turns.buys[i]
            signal = int(turns.signal[i])
            customer = (
                None if over else pick(WORDINGS[int(turns.stage[i]), signal if signal >= 0 else None], customer_u[i])
            )
            steps.append(Step(REACTIONS[turns.reaction[i]], sent, customer, bool(turns.buys[i])))
        return steps
