"""A conversation of `ippo chat`: who says what, and what the gateway is told."""

from typing import Any, Protocol

from ippo_trainer.gateway.client import GatewaySuggestion, Reaction

_CUSTOMER, _BUSINESS, _SUGGESTION = "customer:   ", "business:   ", "suggestion: "
_KEYS = "a accept, e edit, r reject: "
_OWN_KEYS = "it suggests nothing; send:  "
_SEND = "send:       "
_OUTCOME = "did it have the outcome? y yes, n no, nothing if that is not known yet: "
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": None}


class Desk(Protocol):
    """One conversation with a gateway."""

    name: str

    def suggest(self, messages: list[dict[str, Any]]) -> GatewaySuggestion:
        """For the newest message."""

    def react(self, turn: int, reaction: Reaction) -> None:
        """What became of a suggestion."""

    def close(self, outcome: bool | None) -> None:
        """The conversation is over."""


class ChatScreen(Protocol):
    """Who talks."""

    def ask(self, prompt: str, begin: str = "") -> str | None:
        """One line; None at the end of the input."""

    def show(self, name: str, text: str) -> None:
        """A text, behind a name."""


class Session:
    """One conversation."""

    def __init__(self, desk: Desk, screen: ChatScreen) -> None:
        self._desk, self._screen = desk, screen
        self._messages: list[dict[str, Any]] = []

    def as_customer(self) -> None:
        """What the policy suggests is sent as it is."""
        self._screen.show("", f"conversation {self._desk.name}; an empty line ends it")
        while message := self._screen.ask(_CUSTOMER):
            suggestion = self._suggest(message)
            if suggestion.text is None:
                self._screen.show(_BUSINESS, "(says nothing)")
                self._desk.react(suggestion.turn, Reaction("rejected", suggestion_id=suggestion.id))
                continue
            self._screen.show(_BUSINESS, suggestion.text)
            self._send(suggestion, "accepted", suggestion.text)
        self._end()

    def as_business(self) -> None:
        """Whoever sits at the terminal decides what is sent."""
        self._screen.show("", f"conversation {self._desk.name}; an empty line in place of a customer's message ends it")
        while message := self._screen.ask(_CUSTOMER):
            if not self._decide(self._suggest(message)):
                break
        self._end()

    def _suggest(self, message: str) -> GatewaySuggestion:
        self._messages.append({"role": "user", "content": message})
        return self._desk.suggest(self._messages)

    def _decide(self, suggestion: GatewaySuggestion) -> bool:
        """Asks until something is sent; False at the end of the input."""
        if suggestion.text is None:
            return self._own(suggestion, _OWN_KEYS, "")
        self._screen.show(_SUGGESTION, suggestion.text)
        while (key := self._screen.ask(_KEYS)) is not None:
            if key.lower() in {"a", "accept"}:
                self._send(suggestion, "accepted", suggestion.text)
                return True
            if key.lower() in {"e", "edit", "r", "reject"}:
                edits = key.lower().startswith("e")
                return self._own(suggestion, _SEND, suggestion.text if edits else "")
        return False

    def _own(self, suggestion: GatewaySuggestion, prompt: str, begin: str) -> bool:
        """Asks for what is sent; with a beginning, that is the suggestion to be edited."""
        text = self._screen.ask(prompt, begin)
        while text == "":
            text = self._screen.ask(prompt, begin)
        if text is None:
            return False
        if text == suggestion.text:
            self._send(suggestion, "accepted", text)
        else:
            self._send(suggestion, "edited" if begin else "rejected", text)
        return True

    def _send(self, suggestion: GatewaySuggestion, kind: Any, text: str) -> None:
        own = None if kind == "accepted" else text
        self._desk.react(suggestion.turn, Reaction(kind, own, suggestion.id))
        said = {"role": "assistant", "content": text, "suggestion": suggestion.text, "reaction": kind}
        self._messages.append(said)

    def _end(self) -> None:
        """Asks what came of it. A conversation in which nothing was said leaves no trace."""
        if not self._messages:
            return
        answer = self._screen.ask(_OUTCOME)
        while answer is not None and answer.lower() not in _ANSWERS:
            answer = self._screen.ask(_OUTCOME)
        outcome = _ANSWERS[(answer or "").lower()]
        self._desk.close(outcome)
        endings = {True: "with the outcome", False: "without the outcome", None: "its outcome is not known yet"}
        self._screen.show("", f"conversation {self._desk.name} is over: {endings[outcome]}")
