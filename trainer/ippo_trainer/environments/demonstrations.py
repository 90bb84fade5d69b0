"""Conversations held by an environment's own scripted business, as a first log."""

from collections.abc import Callable, Sequence

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.protocol import Demonstrator, Environment, as_opening, went_on

_BATCH = 4096


def demonstrate(
    environment: Environment, seeds: Sequence[int], name: str, done: Callable[[int], object] = lambda count: None
) -> list[Conversation]:
    """One conversation per seed, in which the environment suggests what it would send itself.

    Args:
        environment: one that is a `Demonstrator`.
        seeds: a conversation depends on its own seed only.
        name: of the environment, for errors.
        done: is told how many more conversations are over.

    Raises:
        BadSpecError: the environment has no scripted business.
    """
    if not isinstance(environment, Demonstrator):
        raise BadSpecError(
            f"warmStart.demonstrations: environment {name!r} has no method demonstrate",
            "Give warmStart.conversations, a log, instead.",
        )
    conversations = []
    for start in range(0, len(seeds), _BATCH):
        batch = _batch(environment, environment, start, seeds[start : start + _BATCH])
        conversations += batch
        done(len(batch))
    return conversations


def _batch(environment: Environment, business: Demonstrator, start: int, seeds: Sequence[int]) -> list[Conversation]:
    openings = [as_opening(value) for value in environment.reset(seeds)]
    conversations = [
        Conversation(f"demonstration-{start + index:07d}", context=opening.context)
        for index, opening in enumerate(openings)
    ]
    waiting = [
        (conversation, opening.customer_message, opening.tool_messages)
        for conversation, opening in zip(conversations, openings, strict=True)
    ]
    while waiting:
        suggestions = business.demonstrate()
        steps = environment.step(suggestions)
        still = []
        for (conversation, message, tools), suggestion, step in zip(waiting, suggestions, steps, strict=True):
            turn = Turn(
                message,
                suggestion,
                step.reaction,
                step.sent_message,
                displayed=step.displayed,
                behaviour="log",
                tool_messages=tools,
            )
            conversation.turns.append(turn)
            conversation.outcome, conversation.censored = step.outcome, step.censored
            conversation.went_on = went_on(step)
            if step.customer_message is not None and not step.censored:
                still.append((conversation, step.customer_message, step.tool_messages))
        waiting = still
    return conversations
