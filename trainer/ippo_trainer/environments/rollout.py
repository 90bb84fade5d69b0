"""Deploys a policy in an environment: many conversations at once, logged turn by turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.schema import Behaviour, Conversation, Turn
from ippo_trainer.environments.protocol import Environment, Step
from ippo_trainer.models.cache import PrefixMemory
from ippo_trainer.models.sampling import sample
from ippo_trainer.text.render import Renderer

# Simulated time, so that equal conversations are equal bytes: 2025-01-01, a minute per turn.
_EPOCH = 1_735_689_600.0
_TURN_SECONDS = 60.0
_REPLY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """A conversation that waits for a suggestion: `slot` is its number in the batch, `seed` its own seed."""

    slot: int
    seed: int
    history: Sequence[Turn]
    customer_message: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What an agent suggests (None: it abstains) and where that came from."""

    text: str | None
    policy_digest: str = ""
    behaviour: Behaviour = "policy"
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    dropped_turns: int = 0
    """Oldest turns of the history that the agent did not see."""
    truncated: bool = False
    """It had not ended after max_new_tokens."""


class Agent(Protocol):
    """Suggests replies. All states of one call have histories of the same length."""

    def __call__(self, states: Sequence[State]) -> list[Suggestion]:
        """One suggestion per state, in order."""
        ...


@dataclass
class PolicyAgent:
    """A language model as an agent.

    A suggestion depends on the conversation's seed, the turn and what was said, not on the other conversations (up to
    float rounding, which a batch of the same conversations repeats).

    Args:
        model, renderer: the policy.
        digest: of the policy, for the log.
        max_new_tokens, temperature, batch_tokens: see `models.sampling.sample`.
        behaviour: how its turns are tagged.
    """

    model: Any
    renderer: Renderer
    digest: str
    max_new_tokens: int
    temperature: float
    behaviour: Behaviour = "policy"
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        self._memory = PrefixMemory()

    def __call__(self, states: Sequence[State]) -> list[Suggestion]:
        """As `Agent`."""
        if states and not states[0].history:
            self._memory = PrefixMemory()  # a new batch; what the last one left must not even change the rounding
        prompts = [self.renderer.prompt(state.history, state.customer_message) for state in states]
        responses = sample(
            self.model,
            [prompt.ids for prompt in prompts],
            samples_per_prompt=1,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            stop_ids=self.renderer.stop_ids,
            pad_id=self.renderer.tokenizer.pad_token_id,
            uniforms_key=[derive_seed(state.seed, "sample", self.behaviour, len(state.history)) for state in states],
            batch_tokens=self.batch_tokens,
            memory=self._memory,
            slots=[state.slot for state in states],
        )
        return [
            Suggestion(
                self.renderer.decode(response.ids)[0],
                self.digest,
                self.behaviour,
                response.ids,
                response.logprobs,
                prompt.dropped_turns,
                not response.ended,
            )
            for prompt, (response,) in zip(prompts, responses, strict=True)
        ]


@dataclass
class ExploringAgent:
    """At every turn, with a given probability, the suggestion comes from another agent.

    Whether it does is drawn per (conversation, turn), before and independently of everything that is said there.
    """

    agent: Agent
    explorer: Agent
    probability: float

    def __call__(self, states: Sequence[State]) -> list[Suggestion]:
        """As `Agent`."""
        explored = [self._explores(state) for state in states]
        found: dict[int, Suggestion] = {}
        for agent, wanted in ((self.agent, False), (self.explorer, True)):
            chosen = [state for state, explores in zip(states, explored, strict=True) if explores == wanted]
            found |= {state.slot: made for state, made in zip(chosen, agent(chosen), strict=True)}
        return [found[state.slot] for state in states]

    def _explores(self, state: State) -> bool:
        return derive_seed(state.seed, "explore", len(state.history)) < self.probability * 2.0**63


@dataclass(frozen=True, slots=True)
class Rollout:
    """Conversations in the order of their seeds, and what only the agent saw."""

    conversations: list[Conversation]
    dropped_turns: int
    """Turns that histories had lost, summed over all states."""
    truncated: int
    """Suggestions that had not ended."""


def rollout(
    environment: Environment,
    seeds: Sequence[int],
    ids: Sequence[str],
    agent: Agent,
    done: Callable[[int], object] = lambda count: None,
) -> Rollout:
    """Holds one conversation per seed, all at once, to their ends.

    A conversation that the environment leaves open after its `max_turns` turns is over, without the outcome.

    Args:
        environment: the customers and the business.
        seeds: a conversation depends on its seed and the agent only.
        ids: of the conversations.
        agent: suggests the replies.
        done: is told how many more conversations are over.
    """
    conversations = [Conversation(name) for name in ids]
    messages = environment.reset(seeds)
    open_ = [
        State(slot, seed, conversations[slot].turns, message)
        for slot, (seed, message) in enumerate(zip(seeds, messages, strict=True))
    ]
    dropped = truncated = 0
    for turn in range(environment.max_turns):
        suggestions = agent(open_)
        steps = environment.step([suggestion.text for suggestion in suggestions])
        still: list[State] = []
        for state, suggestion, step in zip(open_, suggestions, steps, strict=True):
            conversation = conversations[state.slot]
            conversation.turns.append(_turn(turn, state, suggestion, step))
            conversation.outcome, conversation.censored = step.outcome, step.censored
            dropped += suggestion.dropped_turns
            truncated += suggestion.truncated
            if step.customer_message is not None:
                still.append(State(state.slot, state.seed, conversation.turns, step.customer_message))
        over = len(open_) - len(still)
        if turn + 1 == environment.max_turns:
            over += len(still)
        done(over)
        open_ = still
        if not open_:
            break
    return Rollout(conversations, dropped, truncated)


def _turn(number: int, state: State, suggestion: Suggestion, step: Step) -> Turn:
    start = _EPOCH + number * _TURN_SECONDS
    return Turn(
        customer_message=state.customer_message,
        suggestion=suggestion.text,
        reaction=step.reaction,
        sent_message=step.sent_message,
        displayed=step.displayed,
        policy_digest=suggestion.policy_digest,
        behaviour=suggestion.behaviour,
        token_ids=suggestion.token_ids,
        sampler_logprobs=suggestion.logprobs,
        started_at=start,
        ended_at=start + _REPLY_SECONDS,
    )
