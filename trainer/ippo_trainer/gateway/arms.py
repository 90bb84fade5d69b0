"""Which policy and which persona a conversation gets. Pure: replicas share nothing and still agree."""

from dataclasses import dataclass

from ippo_trainer.contract.live import Route, Routes
from ippo_trainer.contract.personas import NO_PERSONA, Persona, drawn
from ippo_trainer.live.assignment import in_canary
from ippo_trainer.live.events import ACTIVE, CANDIDATE, Arm


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who answers a conversation."""

    arm: Arm
    route: Route
    persona: Persona | None


@dataclass(frozen=True, slots=True)
class Earlier:
    """Who answered a conversation before."""

    digest: str
    """Of the policy that it belongs to."""
    persona: str


def assign(routes: Routes, conversation: str, earlier: Earlier | None) -> Assignment:
    """Who answers.

    A conversation keeps its policy and its persona as long as there are these. One whose policy is gone gets the active
    one: what changes hands counts for no arm of a test.

    Args:
        routes: as of now.
        conversation: its id.
        earlier: who answered it before, as far as this replica knows.
    """
    canary = routes.canary
    if earlier is None:
        tested = canary is not None and in_canary(canary.route.digest, conversation, float(canary.settings.share))
    else:
        tested = canary is not None and earlier.digest == canary.route.digest != routes.active.digest
    persona = drawn(routes.personas, conversation) if earlier is None else _named(routes, earlier.persona)
    if tested and canary is not None:
        return Assignment(CANDIDATE, canary.route, persona)
    return Assignment(ACTIVE, routes.active, persona)


def _named(routes: Routes, name: str) -> Persona | None:
    return next((each for each in routes.personas if each.name == name), None) if name != NO_PERSONA else None
