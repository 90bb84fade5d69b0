"""What a logged turn is: dataclasses in memory, a versioned Parquet schema on disk.

One row is one turn: the newest customer message, what the agent suggested, and what the business did with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import pyarrow as pa

from ippo_trainer.data.reactions import Reaction

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 has none of `NEW_COLUMNS`."""
VERSION_KEY = b"ippo.schema_version"

Behaviour = Literal["policy", "explore", "log"]
BEHAVIOURS: tuple[str, ...] = get_args(Behaviour)
PEOPLE = "people"
"""The writer of a log that names none."""


@dataclass(slots=True)
class Turn:
    """One customer message and the suggestion made for it. The action is `suggestion`, whatever the business sent."""

    customer_message: str
    suggestion: str | None
    """The agent's text; None where it abstained."""
    reaction: Reaction
    """What the business did with the suggestion; an abstention counts as rejected, the business wrote its own."""
    sent_message: str
    """What the customer got."""
    outcome: bool = False
    """Whether the outcome had already come before this suggestion."""
    displayed: bool = True
    """Whether the business saw the suggestion. One that it did not see changed nothing: see `as_shown`."""
    policy_digest: str = ""
    """Digest of the policy that made the suggestion; empty where unknown."""
    behaviour: Behaviour = "policy"
    """`policy` sampled from the policy, `explore` from the explorer, `log` somebody else's."""
    token_ids: list[int] | None = None
    """The sampled tokens, stop token included; None where unknown."""
    sampler_logprobs: list[float] | None = None
    """Natural log-probability of each of `token_ids` under the sampler, after temperature."""
    started_at: float = 0.0
    """Seconds since 1970 UTC when the customer message came. Simulators use simulated time, so that bytes repeat."""
    ended_at: float = 0.0
    """Seconds since 1970 UTC when the business sent its message."""
    writer: str = ""
    """Of a turn of somebody else's: who suggested; empty where nobody said. Of an exploring turn its persona, if it has
    one."""
    tool_messages: Sequence[str] = ()
    """What tools had returned since the suggestion before, in order."""

    def as_shown(self) -> Self:
        """The turn as the business met it: a suggestion that was never displayed is an abstention."""
        if self.displayed:
            return self
        return replace(self, suggestion=None, reaction="rejected", token_ids=None, sampler_logprobs=None)


class State(NamedTuple):
    """What an agent knows when it suggests: `Renderer.prompt(*state)` are its tokens."""

    history: Sequence[Turn]
    customer_message: str
    tool_messages: Sequence[str] = ()
    context: str = ""


@dataclass(slots=True)
class Conversation:
    """Turns in order, and how it ended."""

    id: str
    turns: list[Turn] = field(default_factory=list)
    outcome: bool = False
    """Whether the outcome came, at the latest after the last turn."""
    censored: bool = False
    """Its end was not seen: its outcome is unknown, it is no failure."""
    customer_id: str = ""
    """Whose conversation it is; empty where unknown. Conversations of one customer stay on one side of a split."""
    context: str = ""
    """What the agent is given besides the dialogue, such as the customer's record or a catalogue, as text."""
    group: str = ""
    """Of a log: by what results are told apart in the report; empty where it says nothing."""
    went_on: bool = False
    """Censored, and known to have gone on: somebody else made the next turn, or a simulator had the customer's next
    message. Of other censored ones nobody knows whether there was a next turn."""

    def state(self, index: int) -> State:
        """The state that turn `index` answers."""
        turn = self.turns[index]
        return State(self.turns[:index], turn.customer_message, turn.tool_messages, self.context)


SCHEMA = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("customer_message", pa.string(), nullable=False),
        pa.field("outcome", pa.bool_(), nullable=False),
        pa.field("suggestion", pa.string()),
        pa.field("reaction", pa.string(), nullable=False),
        pa.field("sent_message", pa.string(), nullable=False),
        pa.field("displayed", pa.bool_(), nullable=False),
        pa.field("policy_digest", pa.string(), nullable=False),
        pa.field("behaviour", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("sampler_logprobs", pa.list_(pa.float32())),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("ended_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("censored", pa.bool_(), nullable=False),
        pa.field("final_outcome", pa.bool_(), nullable=False),
        pa.field("writer", pa.string(), nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("context", pa.string()),
        pa.field("tool_messages", pa.list_(pa.string())),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)
"""`outcome` is before the suggestion; `censored`, `final_outcome` and `customer_id` are the conversation's, repeated on
each row. `context`, which may be long, is the conversation's, too, and stands on its first row alone."""
GROUP, WENT_ON = "group", "went_on"
OPTIONAL = {GROUP: "", WENT_ON: False}
"""Columns of a conversation, repeated on each row, of files in which some conversation has another value: the others
stay as they were, to the byte."""
WIDE_SCHEMA = SCHEMA.append(pa.field(GROUP, pa.string(), nullable=False)).append(
    pa.field(WENT_ON, pa.bool_(), nullable=False)
)
"""With all optional columns."""
NEW_COLUMNS: dict[str, Any] = {"writer": "", "customer_id": "", "context": "", "tool_messages": ()}
"""What files of version 1 lack, and what stands for it."""
