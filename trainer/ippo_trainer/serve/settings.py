"""The settings of a server, and the policy that it has loaded."""

from dataclasses import dataclass
from pathlib import Path

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.params import EngineName
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.serve.engine import Engine
from ippo_trainer.text.render import Renderer


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Args:
        policy: directory of a policy artifact.
        engine: what generates.
        max_new_tokens: of one response; longer ones are cut.
        max_waiting: requests that may wait for the engine.
        digest: of the policy.
        name: of the run.
        origins: of pages in browsers that may ask.
        log: where suggestions are logged; None for nowhere.
    """

    policy: Path
    engine: EngineName
    max_new_tokens: int
    max_waiting: int
    digest: str
    name: str
    origins: tuple[str, ...] = ()
    log: StoreLocation | None = None


@dataclass(frozen=True)
class ServedModel:
    """A policy that can be asked, once its engine is started."""

    renderer: Renderer
    engine: Engine


def response_room(positions: int | None, max_prompt_tokens: int, max_new_tokens: int) -> int:
    """Tokens that a response may have behind a full prompt. Raises BadDataError if there is no room for any.

    Args:
        positions: tokens that the model can see; None if there is no bound.
        max_prompt_tokens: of a full prompt.
        max_new_tokens: asked for.
    """
    room = max_new_tokens if positions is None else min(max_new_tokens, positions - max_prompt_tokens)
    if room < 1:
        raise BadDataError(
            f"the model sees {positions} tokens, a prompt may take {max_prompt_tokens}: no room for a response",
            "Train with a lower policy.maxPromptTokens.",
        )
    return room
