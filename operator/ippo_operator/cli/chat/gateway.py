"""One conversation with a gateway, call by call."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from ippo_trainer.contract.lines import one_line
from ippo_trainer.gateway.client import GatewayClient, GatewayError, GatewaySuggestion, Reaction, Whose

from ippo_operator.cli.chat import KEY
from ippo_operator.cli.errors import FAILED, TRY_AGAIN, CommandError

_GROUP = "chat"
_REFUSED = {401, 403}
_T = TypeVar("_T")


class GatewaySession:
    """Use it in `with`. What the gateway refuses is a CommandError.

    Args:
        url: of the gateway.
        key: its API key, empty where it asks for none.
        name: of the conversation.
        customer: whose it is; empty where unknown.
    """

    def __init__(self, url: str, key: str, name: str, customer: str) -> None:
        self.name = name
        self._url = url
        self._whose = Whose(name, customer, _GROUP)
        self._client = GatewayClient(url, key)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def suggest(self, messages: Sequence[Mapping[str, Any]]) -> GatewaySuggestion:
        """For the newest message."""
        return self._call(self._client.chat(messages, self._whose))

    def react(self, turn: int, reaction: Reaction) -> None:
        """What became of a suggestion."""
        self._call(self._client.react(self.name, turn, reaction))

    def close(self, outcome: bool | None) -> None:
        """The conversation is over; None where nobody knows yet what came of it."""
        self._call(self._client.close_conversation(self.name, outcome))

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return self._runner.run(work)
        except GatewayError as error:
            said = f"the gateway at {self._url} says {one_line(str(error))}"
            if error.status in _REFUSED:
                raise CommandError(f"{said}; set {KEY} to a key with the scopes chat and events") from None
            later = error.status in {0, 429, 503}
            raise CommandError(said, TRY_AGAIN if later else FAILED) from None
