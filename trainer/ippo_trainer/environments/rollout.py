"""Deploys a policy in an environment: many conversations at once, logged turn by turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.personas import NO_PERSONA, Persona, context_with
from ippo_trainer.data.context import tool_messages_of
from ippo_trainer.data.schema import Behaviour, Conversation, State, Turn
from ippo_trainer.engines.interface import PolicySampler
from ippo_trainer.environments.protocol import Environment, Resumable, Step, as_opening, went_on
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.text.render import Renderer

# Simulated time, so that equal conversations are equal bytes: 2025-01-01, a minute per turn.
_EPOCH = 1_735_689_600.0
_TURN_SECONDS = 60.0
_REPLY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class OpenConversation:
    """A conversation that waits for a suggestion."""

    slot: int
    """Its number in the batch."""
    seed: int
    """Its own."""
    history: Sequence[Turn]
    customer_message: str
    tool_messages: Sequence[str] = ()
    context: str = ""
    """The conversation's, behind its persona's instructions."""
    persona: str = NO_PERSONA
    """Who suggests."""

    def state(self) -> State:
        """What the agent knows."""
        return State(self.history, self.customer_message, self.tool_messages, self.context)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What an agent suggests (None: it abstains) and where that came from."""

    text: str | None
    policy_digest: str = ""
    behaviour: Behaviour = "policy"
    writer: str = ""
    """The persona."""
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    dropped_turns: int = 0
    """Oldest turns of the history that the agent did not see."""
    truncated: bool = False
    """It had not ended after max_new_tokens."""


class Agent(Protocol):
    """Suggests replies. All states of one call have histories of the same length."""

    def __call__(self, states: Sequence[OpenConversation]) -> list[Suggestion]:
        """One suggestion per state, in order."""
        ...


@dataclass
class PolicyAgent:
    """A language model as an agent.

    A suggestion depends on the conversation's seed, the turn and what was said, not on the other conversations (up to
    float rounding, which a batch of the same conversations repeats).

    Args:
        sampler, renderer: of the policy.
        digest: of the policy, for the log.
        max_new_tokens, temperature, batch_tokens, min_p: see `models.sampling.Sampling`.
        behaviour, persona: how its turns are tagged.
    """

    sampler: PolicySampler
    renderer: Renderer
    digest: str
    max_new_tokens: int
    temperature: float
    behaviour: Behaviour = "policy"
    batch_tokens: int | None = None
    min_p: float = 0.0
    persona: str = NO_PERSONA

    def __post_init__(self) -> None:
        stops, pad_id = self.renderer.stop_ids, self.renderer.tokenizer.pad_token_id
        limits = self.batch_tokens, self.min_p
        self._sampling = Sampling(1, self.max_new_tokens, self.temperature, stops, pad_id, *limits)

    def begin(self) -> None:
        """A new batch: what the last one left must not even change the rounding."""
        self.sampler.begin()

    def __call__(self, states: Sequence[OpenConversation]) -> list[Suggestion]:
        """As `Agent`."""
        if states and not states[0].history:
            self.begin()
        prompts = [self.renderer.prompt(*state.state()) for state in states]
        responses = self.sampler.sample(
            [prompt.ids for prompt in prompts],
            [derive_seed(state.seed, "sample", self.behaviour, len(state.history)) for state in states],
            self._sampling,
            [state.slot for state in states],
        )
        return [
            Suggestion(
                self.renderer.decode(response.ids)[0],
                self.digest,
                self.behaviour,
                self.persona,
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

    def __call__(self, states: Sequence[OpenConversation]) -> list[Suggestion]:
        """As `Agent`."""
        if states and not states[0].history:  # of which one may see nothing at the first turn, and not notice
            for agent in (self.agent, self.explorer):
                if isinstance(agent, PolicyAgent):
                    agent.begin()
        explored = [self._explores(state) for state in states]
        suggestions: dict[int, Suggestion] = {}
        for agent, from_explorer in ((self.agent, False), (self.explorer, True)):
            due = [state for state, explores in zip(states, explored, strict=True) if explores == from_explorer]
            suggestions |= {state.slot: suggestion for state, suggestion in zip(due, agent(due), strict=True)}
        return [suggestions[state.slot] for state in states]

    def _explores(self, state: OpenConversation) -> bool:
        return derive_seed(state.seed, "explore", len(state.history)) < self.probability * 2.0**63


@dataclass
class PersonasAgent:
    """Conversations that have a persona are that persona's, in all turns; another agent has the others.

    Args:
        agent: the other one.
        personas: by name.
    """

    agent: Agent
    personas: dict[str, PolicyAgent]

    def __call__(self, states: Sequence[OpenConversation]) -> list[Suggestion]:
        """As `Agent`."""
        suggestions: dict[int, Suggestion] = {}
        for name, agent in {NO_PERSONA: self.agent, **self.personas}.items():
            due = [state for state in states if state.persona == name]
            if due:
                suggestions |= {state.slot: suggestion for state, suggestion in zip(due, agent(due), strict=True)}
        return [suggestions[state.slot] for state in states]


@dataclass
class MessageReader:
    """Cuts customers' messages that fit into no prompt of a policy.

    Args:
        renderer: of the policy.
        cut: messages that were cut so far.
    """

    renderer: Renderer
    cut: int = 0

    def __call__(self, message: str, tool_messages: Sequence[str], context: str) -> str:
        """What is read of the message, beside what tools returned and the context."""
        text = self.renderer.cut(message, tool_messages, context)
        self.cut += text != message
        return text

    def warnings(self) -> list[str]:
        """What a user ought to know of it."""
        if not self.cut:
            return []
        limit = self.renderer.max_prompt_tokens
        return [f"{self.cut} messages of customers were cut: they fit into no prompt of {limit} tokens"]


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """Conversations in the order of their seeds, and what only the agent saw."""

    conversations: list[Conversation]
    dropped_turns: int
    """Turns that histories had lost, summed over all states."""
    truncated: int
    """Suggestions that had not ended."""


class Newest(NamedTuple):
    """What an open conversation waits with for a suggestion."""

    customer_message: str
    tool_messages: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch between two turns, to go on from later.

    Args:
        conversations: all of the batch, in order, with their turns so far.
        waiting: by slot, what is newest in those that are open.
    """

    conversations: list[Conversation]
    waiting: dict[int, Newest]


@dataclass(frozen=True)
class Batch:
    """Conversations to hold at once.

    Args:
        seeds: a conversation depends on its seed and the agent only.
        ids: of the conversations.
        resumed: what `after_turn` got in an attempt that was cut off. What it holds is not asked of the environment
            again, but for open conversations of an environment that is not `Resumable`: they start anew. The agent
            makes all its suggestions again, since a batch of other conversations would be rounded otherwise.
        read: what the agent can read of a customer's message beside what tools returned and the context, which is
            what is logged of it.
        personas: by conversation, whose it is; without any, all are the policy's as it is. Their instructions are
            no part of what is logged.
    """

    seeds: Sequence[int]
    ids: Sequence[str]
    resumed: OpenBatch | None = None
    read: Callable[[str, Sequence[str], str], str] = lambda message, tool_messages, context: message
    personas: Sequence[Persona | None] = ()

    def persona(self, slot: int) -> Persona | None:
        """Of the conversation of a slot."""
        return self.personas[slot] if self.personas else None

    def known(self, slot: int, context: str) -> str:
        """What the agent is given besides the dialogue, where the environment gives `context`."""
        persona = self.persona(slot)
        return context if persona is None else context_with(persona.instructions, context)


def rollout(
    environment: Environment,
    agent: Agent,
    batch: Batch,
    progress: Callable[[int], object] = lambda count: None,
    after_turn: Callable[[OpenBatch], object] = lambda open_batch: None,
) -> RolloutResult:
    """Holds one conversation per seed, all at once, to their ends.

    A conversation that the environment leaves open after its `max_turns` turns is over, without the outcome.

    Args:
        environment: the customers and the business.
        agent: suggests the replies.
        batch: the conversations.
        progress: called with the number of conversations that have ended since its last call.
        after_turn: called with the batch after every turn that does not end it; may save it, or raise.
    """
    customers = _Customers(environment, batch)
    conversations, open_conversations = [], []
    for slot, (name, seed, (context, newest)) in enumerate(zip(batch.ids, batch.seeds, customers.start(), strict=True)):
        conversations.append(Conversation(name, context=context))
        persona = batch.persona(slot)
        whose = batch.known(slot, context), NO_PERSONA if persona is None else persona.name
        open_conversations.append(OpenConversation(slot, seed, conversations[slot].turns, *newest, *whose))
    dropped = truncated = 0
    for turn in range(environment.max_turns):
        suggestions = agent(open_conversations)
        answers = customers.answer(turn, open_conversations, suggestions)
        remaining: list[OpenConversation] = []
        for state, suggestion, answer in zip(open_conversations, suggestions, answers, strict=True):
            conversation = conversations[state.slot]
            conversation.turns.append(answer.turn)
            conversation.outcome, conversation.censored = answer.outcome, answer.censored
            conversation.went_on = answer.went_on
            dropped += suggestion.dropped_turns
            truncated += suggestion.truncated
            if answer.message is not None:
                remaining.append(replace(state, **answer.message._asdict()))
        over = len(open_conversations) - len(remaining)
        if turn + 1 == environment.max_turns:
            over += len(remaining)
        progress(over)
        open_conversations = remaining
        if not open_conversations:
            break
        if turn + 1 < environment.max_turns:
            after_turn(customers.open_batch(conversations, open_conversations))
    return RolloutResult(conversations, dropped, truncated)


@dataclass(frozen=True, slots=True)
class _TurnResult:
    """What came of one turn of one conversation; `message` is None where it is over."""

    turn: Turn
    message: Newest | None
    outcome: bool
    censored: bool
    went_on: bool


class _Customers:
    """The customers and the business of one batch: the log of an earlier attempt, then the environment."""

    def __init__(self, environment: Environment, batch: Batch) -> None:
        resumed = batch.resumed
        self._environment, self._seeds, self._batch = environment, batch.seeds, batch
        self._waiting = resumed.waiting if resumed is not None else {}
        self._log = dict(enumerate(resumed.conversations)) if resumed is not None else {}
        if not isinstance(environment, Resumable):
            self._log = {slot: conversation for slot, conversation in self._log.items() if slot not in self._waiting}

    def start(self) -> list[tuple[str, Newest]]:
        """Contexts and first messages, by slot."""
        fresh = [slot for slot in range(len(self._seeds)) if slot not in self._log]
        first = {slot: (each.context, _newest(each.turns[0])) for slot, each in self._log.items()}
        if fresh:
            openings = map(as_opening, self._environment.reset([self._seeds[slot] for slot in fresh]))
            first |= {
                slot: (
                    opening.context,
                    self._waiting_with(
                        opening.customer_message, opening.tool_messages, self._batch.known(slot, opening.context)
                    ),
                )
                for slot, opening in zip(fresh, openings, strict=True)
            }
        elif self._waiting and isinstance(self._environment, Resumable):
            slots = sorted(self._waiting)
            self._environment.resume(
                [self._seeds[slot] for slot in slots],
                [self._log[slot] for slot in slots],
                [self._waiting[slot].customer_message for slot in slots],
            )
        return [first[slot] for slot in range(len(self._seeds))]

    def answer(
        self, turn: int, states: Sequence[OpenConversation], suggestions: Sequence[Suggestion]
    ) -> list[_TurnResult]:
        """What comes of a suggestion in each of the open conversations."""
        logged = [state.slot in self._log and turn < len(self._log[state.slot].turns) for state in states]
        texts = [suggestion.text for suggestion, is_logged in zip(suggestions, logged, strict=True) if not is_logged]
        steps = iter(self._environment.step(texts) if texts else ())
        return [
            self._logged(turn, state.slot) if is_logged else self._answer(turn, state, suggestion, next(steps))
            for state, suggestion, is_logged in zip(states, suggestions, logged, strict=True)
        ]

    def open_batch(self, conversations: Sequence[Conversation], states: Sequence[OpenConversation]) -> OpenBatch:
        """The batch as it is now; where the log knows more of a conversation, as the log has it."""
        waiting = {state.slot: Newest(state.customer_message, state.tool_messages) for state in states}
        copies = []
        for slot, conversation in enumerate(conversations):
            logged = self._log.get(slot)
            if logged is None or len(logged.turns) <= len(conversation.turns):
                copies.append(replace(conversation, turns=list(conversation.turns)))
                continue
            copies.append(logged)
            waiting.pop(slot)
            if slot in self._waiting:
                waiting[slot] = self._waiting[slot]
        return OpenBatch(copies, waiting)

    def _answer(self, number: int, state: OpenConversation, suggestion: Suggestion, step: Step) -> _TurnResult:
        newest = None
        if step.customer_message is not None and not step.censored:
            newest = self._waiting_with(step.customer_message, step.tool_messages, state.context)
        return _TurnResult(_turn(number, state, suggestion, step), newest, step.outcome, step.censored, went_on(step))

    def _waiting_with(self, message: str, tool_messages: Sequence[Any], context: str) -> Newest:
        tools = tool_messages_of("tool_messages", tool_messages)
        return Newest(self._batch.read(message, tools, context), tools)

    def _logged(self, number: int, slot: int) -> _TurnResult:
        conversation = self._log[slot]
        if number + 1 < len(conversation.turns):
            return _TurnResult(conversation.turns[number], _newest(conversation.turns[number + 1]), False, False, False)
        ending = conversation.outcome, conversation.censored, conversation.went_on
        return _TurnResult(conversation.turns[number], self._waiting.get(slot), *ending)


def _newest(turn: Turn) -> Newest:
    return Newest(turn.customer_message, turn.tool_messages)


def _turn(number: int, state: OpenConversation, suggestion: Suggestion, step: Step) -> Turn:
    start = _EPOCH + number * _TURN_SECONDS
    return Turn(
        customer_message=state.customer_message,
        suggestion=suggestion.text,
        reaction=step.reaction,
        sent_message=step.sent_message,
        displayed=step.displayed,
        policy_digest=suggestion.policy_digest,
        behaviour=suggestion.behaviour,
        writer=suggestion.writer,
        token_ids=suggestion.token_ids,
        sampler_logprobs=suggestion.logprobs,
        started_at=start,
        ended_at=start + _REPLY_SECONDS,
        tool_messages=state.tool_messages,
    )
