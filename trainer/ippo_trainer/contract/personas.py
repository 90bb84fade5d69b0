"""Personas: variations by which a policy is explored, whole conversations at a time, with customers and in simulators.

The gateway and collect's simulator draw from the same list, by the same rule.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ippo_trainer.contract.fields import NAME, NAME_WORDS, Positive, Share, matching
from ippo_trainer.contract.model import Model

NO_PERSONA = ""
"""In records: the policy as it is."""
MAX_EXPLORATION = 0.3
"""Where maxExploration is left out."""
MOST_PERSONAS = 16


class Persona(Model):
    """A variation by which a policy is explored. What it suggests is logged as explored, never as the policy's own."""

    name: Annotated[str, matching(NAME, NAME_WORDS, 63)]
    """In logs and reports."""
    share: Share
    """Of conversations."""
    instructions: Annotated[str, Field(max_length=4096)] = ""
    """Put behind the system prompt, for bases that follow instructions."""
    temperature: Positive | None = None
    """Of sampling, from 0.01 to 2; if left out, the policy's own."""
    min_p: Share | None = None
    """Tokens less likely than this share of the likeliest one, before temperature, are never drawn; 0 if left out."""


class Personas(Model):
    """The personas of a run, and what bounds them."""

    personas: Annotated[tuple[Persona, ...], Field(max_length=MOST_PERSONAS)] | None = None
    """Variations by which the policy is explored, each in its share of the conversations and in all turns of them.
    Without any, no conversation is a persona's."""
    max_exploration: Share | None = None
    """Personas' shares together; more is refused. 0.3 if left out. "0" switches all personas off."""

    @property
    def listed_share(self) -> float:
        """Shares together, of all that are listed."""
        return sum(float(persona.share) for persona in self.personas or ())

    @property
    def most_explored(self) -> float:
        """What they may be at most."""
        return MAX_EXPLORATION if self.max_exploration is None else float(self.max_exploration)

    @property
    def on(self) -> tuple[Persona, ...]:
        """The personas to draw from; none where they are switched off."""
        return self.personas or () if self.most_explored > 0 else ()


def drawn(personas: Sequence[Persona], conversation: str) -> Persona | None:
    """The persona of a conversation; None for the policy as it is.

    Args:
        personas: to draw from.
        conversation: what identifies it. Equal texts draw alike, wherever and how often.
    """
    digest = hashlib.sha256(f"persona\n{conversation}".encode()).digest()
    level = int.from_bytes(digest[:6]) / (1 << 48)  # in [0, 1), uniform over conversations
    for persona in personas:
        if level < float(persona.share):
            return persona
        level -= float(persona.share)
    return None


def context_with(instructions: str, context: str) -> str:
    """What stands behind the system prompt: a persona's instructions, then the conversation's context."""
    return "\n\n".join(text for text in (instructions.strip(), context) if text)
