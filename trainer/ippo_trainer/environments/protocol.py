"""What an environment is: text in, text out, many conversations at once; and what it may know about itself exactly.

An environment needs `max_turns`, `reset` and `step`; nothing has to be imported or inherited. The other protocols
here are optional capabilities that a caller finds with `isinstance`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.data.context import context_of, tool_messages_of
from ippo_trainer.data.reactions import Reaction

if TYPE_CHECKING:
    from ippo_trainer.data.schema import Conversation


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn did to one conversation.

    Args:
        reaction: what the business did with the suggestion; an abstention (None) is always "rejected".
        sent_message: what the business sent to the customer.
        customer_message: the customer's answer, or None if the conversation is over. Of a conversation that is censored
            it says that there was one, whatever it was.
        outcome: True if the customer gave the outcome at this turn; the conversation is over then.
        censored: the conversation was cut off, so its outcome is unknown: with a customer_message before its end, with
            None whether this turn ended it or not.
        displayed: False if the business never saw the suggestion.
        tool_messages: what tools returned since then, which the next suggestion may use: texts or JSON objects.
    """

    reaction: Reaction
    sent_message: str
    customer_message: str | None
    outcome: bool
    censored: bool = False
    displayed: bool = True
    tool_messages: Sequence[Any] = ()


def went_on(step: Step) -> bool:
    """Whether it cut a conversation off that is known to have gone on."""
    return step.censored and step.customer_message is not None


@dataclass(frozen=True, slots=True)
class Opening:
    """How a conversation begins.

    Args:
        customer_message: the first one.
        context: what the agent is given besides the dialogue, such as a customer's record or a catalogue: a text or a
            JSON object.
        tool_messages: what tools returned before the first suggestion.
    """

    customer_message: str
    context: Any = ""
    tool_messages: Sequence[Any] = ()


def as_opening(value: str | Opening) -> Opening:
    """What `reset` gave for a conversation, with texts for what is given as JSON. Raises BadDataError for no JSON."""
    if isinstance(value, str):
        return Opening(value)
    context = context_of("context", value.context)
    return Opening(value.customer_message, context, tool_messages_of("tool_messages", value.tool_messages))


@runtime_checkable
class Environment(Protocol):
    """A batch of conversations with simulated customers.

    A conversation must depend on its seed and on the suggestions it was given, never on what else is in the batch.
    """

    max_turns: int
    """No conversation has more turns than this."""

    def reset(self, seeds: Sequence[int]) -> Sequence[str | Opening]:
        """Starts one conversation per seed and returns the customers' first messages, as texts or openings."""
        ...

    def step(self, suggestions: Sequence[str | None]) -> Sequence[Step]:
        """One turn of every conversation still open: in the order of `reset`, those that are over left out.

        Args:
            suggestions: one per open conversation; None abstains.
        """
        ...


class TryAgain(Exception):  # noqa: N818 - what it asks for
    """What an environment may raise when it cannot answer now but may later: a busy service, a model that loads.

    The stage keeps what it has and is tried again. A class of that name of your own does as well.
    """


@runtime_checkable
class Resumable(Protocol):
    """An environment that can go on with conversations that were held before, maybe by another process."""

    def resume(self, seeds: Sequence[int], conversations: Sequence["Conversation"], messages: Sequence[str]) -> None:
        """As `reset`, with conversations under way.

        Args:
            seeds: as they were given to `reset`.
            conversations: by seed, the turns so far.
            messages: by seed, the customer message that waits for an answer.
        """
        ...


@runtime_checkable
class Demonstrator(Protocol):
    """An environment with a scripted policy of its own, to make a first log from."""

    def demonstrate(self) -> Sequence[str | None]:
        """Its suggestion for every open conversation, to be handed to `step` (or not)."""
        ...


@dataclass(frozen=True, slots=True)
class LadderRow:
    """A reference policy: its discounted value and its undiscounted success, both in expectation over customers."""

    name: str
    value: float
    success: float


@dataclass(frozen=True)
class ExactScore:
    """A policy scored against the exact solution by the performance-difference lemma.

    Args:
        value, standard_error: V(pi), discounted, and its standard error by conversation.
        success, success_error: the same for the undiscounted outcome.
        optimum: V*.
        loss_by_turn: what pi loses against the optimum at each turn. The losses sum to `optimum - value`, but for
            sampling noise: of this sum there is no estimate as precise as `value`.
        loss_by_stage: the same sum, split by stage.
        intent_mix: stage -> intent -> share of the suggestions made at that stage.
    """

    value: float
    standard_error: float
    success: float
    success_error: float
    optimum: float
    loss_by_turn: list[float]
    loss_by_stage: dict[str, float]
    intent_mix: dict[str, dict[str, float]]

    @property
    def share_of_optimum(self) -> float:
        """`value / optimum`; 1 where there is nothing to gain."""
        return self.value / self.optimum if self.optimum > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """camelCase, as it is kept in the evaluation's `metrics.json`."""
        return {
            "value": self.value,
            "standardError": self.standard_error,
            "success": self.success,
            "successError": self.success_error,
            "shareOfOptimum": self.share_of_optimum,
            "optimum": self.optimum,
            "lossByTurn": [{"turn": turn, "loss": loss} for turn, loss in enumerate(self.loss_by_turn)],
            "lossByStage": [{"stage": stage, "loss": loss} for stage, loss in self.loss_by_stage.items()],
            "intentMix": [{"stage": stage, "shares": shares} for stage, shares in self.intent_mix.items()],
        }


@dataclass(frozen=True, slots=True)
class ExactTurn:
    """The exact values of one turn of a conversation, for comparison with a fitted Q.

    Args:
        state: the information state, `(turn, stage, belief or position...)`; equal states have equal values.
        intent: of the suggestion that was made; UNPARSED, which has ABSTAIN's effect, is not among the keys of q.
        q_policy, v_policy: of the intent policy asked about: by intent, and of the state.
    """

    state: tuple[float, ...]
    intent: str
    q_policy: dict[str, float]
    v_policy: float


IntentPolicy = Callable[[int, NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]
"""(turn, stage (N,), belief or position (N, F)) -> probabilities (N, intents)."""


@runtime_checkable
class ExactScorer(Protocol):
    """An environment that can be solved exactly."""

    intents: tuple[str, ...]
    """What a suggestion can mean; ABSTAIN is silence."""
    wordings: Mapping[str, Sequence[str]]
    """All suggestions of each intent but ABSTAIN, so that a policy's distribution over intents can be summed."""

    def ladder(self, discount: float) -> list[LadderRow]:
        """Reference policies from `optimum` down."""
        ...

    def score(self, conversations: Sequence["Conversation"], discount: float) -> ExactScore:
        """Scores the policy that made these conversations, all of them and all of their turns on-policy.

        Raises BadDataError if a conversation cannot have come from this environment.
        """
        ...

    def exact_q(
        self, conversations: Sequence["Conversation"], discount: float, policy: IntentPolicy | None = None
    ) -> list[list[ExactTurn]]:
        """Exact values at every turn: of the optimum, and of `policy` or else of the intents the conversations show."""
        ...

    def intent_of(self, suggestion: str | None) -> str:
        """The intent of a suggestion: one of `intents`, or UNPARSED."""
        ...
