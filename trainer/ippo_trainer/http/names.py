"""By which names a request calls its conversation, its customer and their group."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.lines import printable

HEADER = "X-Conversation-Id"
"""Of requests that name their conversation, and of answers."""
LONGEST = 256
"""Characters of a name."""


@dataclass(frozen=True)
class Said:
    """Where a chat request may name them."""

    metadata: Mapping[str, Any]
    """`conversation_id`, `customer_id` and `group`."""
    user: str | None
    safety_identifier: str | None
    headers: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """What it says, by field, of those that say anything."""
        fields = {f"metadata.{name}": self.metadata.get(name) for name in ("conversation_id", "customer_id", "group")}
        fields |= {HEADER: self.headers.get(HEADER), "user": self.user, "safety_identifier": self.safety_identifier}
        return {field: value for field, value in fields.items() if value is not None}


@dataclass(frozen=True)
class ConversationNames:
    """Whose a request is.

    A name is a text or whole number of at most 256 characters; what is none counts as missing, since a log never fails
    a request.
    """

    conversation: str
    """By `metadata.conversation_id` or the header; made where neither says anything."""
    anonymous: bool
    """Whether the request did not name its conversation."""
    customer: str
    """By `metadata.customer_id`, `user` or `safety_identifier`; empty where unknown."""
    group: str
    """By `metadata.group`; empty where unknown."""

    @classmethod
    def of(cls, said: Said) -> "ConversationNames":
        """Those in a request."""
        names = {field: name_of(value) for field, value in said.values().items()}
        conversation = names.get("metadata.conversation_id") or names.get(HEADER)
        customer = names.get("metadata.customer_id") or names.get("user") or names.get("safety_identifier")
        identifier = conversation or f"conv-{uuid.uuid4().hex}"
        return cls(identifier, not conversation, customer or "", names.get("metadata.group") or "")


def name_of(value: Any) -> str | None:
    """The name that a value is; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    return text if text and len(text) <= LONGEST and printable(text) == text else None
