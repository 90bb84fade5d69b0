"""Plays a scripted policy in an environment."""

from collections.abc import Callable, Sequence

import pytest
from ippo_trainer.data.schema import Conversation, Turn

History = tuple[Sequence[Turn], str]
Agent = Callable[[list[History]], Sequence[str | None]]
Play = Callable[..., list[Conversation]]


@pytest.fixture
def play() -> Play:
    """play(environment, seeds, agent): one conversation per seed; the agent sees (turns, customer message)."""

    def play(environment: object, seeds: Sequence[int], agent: Agent) -> list[Conversation]:
        conversations = [Conversation(str(seed)) for seed in seeds]
        waiting = list(zip(conversations, environment.reset(seeds), strict=True))  # type: ignore[attr-defined]
        while waiting:
            suggestions = agent([(conversation.turns, message) for conversation, message in waiting])
            steps = environment.step(suggestions)  # type: ignore[attr-defined]
            still = []
            for (conversation, message), suggestion, step in zip(waiting, suggestions, steps, strict=True):
                conversation.turns.append(Turn(message, suggestion, step.reaction, step.sent_message))
                conversation.outcome = step.outcome
                if step.customer_message is not None:
                    still.append((conversation, step.customer_message))
            waiting = still
        return conversations

    return play
