"""A state as the messages that a chat template gets: what is given, what was said, and what became of suggestions."""

from collections.abc import Callable, Sequence

from ippo_trainer.contract.params import HistoryFormat
from ippo_trainer.data.context import beside
from ippo_trainer.data.schema import State, Turn
from ippo_trainer.text.codec import Codec, Part
from ippo_trainer.text.markers import ABSTAIN, MARKERS, REACTION_MARKERS, TOOL, escape

MARKED: HistoryFormat = "Marked"


class Chat:
    """Messages of states.

    Args:
        codec: of the tokenizer.
        system_prompt: put first; empty for none.
        history_format: whether histories hold suggestions with notes on what became of them, or what was sent.
        has_system: whether the template has a system message; asked once it matters.
    """

    def __init__(
        self, codec: Codec, system_prompt: str, history_format: HistoryFormat, has_system: Callable[[], bool]
    ) -> None:
        self._system_prompt, self._history_format, self._has_system = system_prompt, history_format, has_system
        self._markers = {marker: codec.trusted(marker) for marker in (*MARKERS, TOOL)}

    def answer(self, suggestion: str | None, bound: Callable[[str], str] = str) -> Sequence[Part]:
        """What a suggestion says (None: it abstains)."""
        return self._markers[ABSTAIN] if suggestion is None else [bound(escape(suggestion))]

    def contents(self, state: State, bound: Callable[[str], str]) -> tuple[bool, list[Sequence[Part]]]:
        """Whether there is a system message, and what the template gets: it, then user and assistant messages in turn.

        Args:
            state: with a history as it was shown.
            bound: what is read of a text.
        """
        system, lead = self.given(state.context, bound)
        exchanges = self._marked(state, bound) if self._history_format == MARKED else self._plain(state, bound)
        first, *rest = exchanges
        contents: list[Sequence[Part]] = [[lead, *first] if lead else first, *rest]
        return bool(system), [[system], *contents] if system else contents

    def given(self, context: str, bound: Callable[[str], str]) -> tuple[str, str]:
        """The system message, and what stands before the first customer message where the template has none."""
        prompt = self._system_prompt
        context = beside(context, prompt).strip()
        if not context:
            return prompt, ""
        text = bound(escape(context))
        return (f"{prompt}\n\n{text}" if prompt else text, "") if self._has_system() else ("", f"{text}\n\n")

    def _marked(self, state: State, bound: Callable[[str], str]) -> list[Sequence[Part]]:
        """Suggestions, and before each customer message a note on what became of the one before."""
        contents: list[Sequence[Part]] = []
        previous: Turn | None = None
        for turn in state.history:
            contents.append(self._user(previous, turn.customer_message, turn.tool_messages, bound))
            contents.append(self.answer(turn.suggestion, bound))
            previous = turn
        return [*contents, self._user(previous, state.customer_message, state.tool_messages, bound)]

    def _user(
        self, previous: Turn | None, message: str, tools: Sequence[str], bound: Callable[[str], str]
    ) -> list[Part]:
        text = escape(message)
        if previous is None:
            parts: list[Part] = [bound(text)]
        else:
            parts = [*self._markers[REACTION_MARKERS[previous.reaction]], bound(_sent_note(previous) + text)]
        for tool in tools:
            parts += ["\n", *self._markers[TOOL], f" {bound(escape(tool))}"]
        return parts

    def _plain(self, state: State, bound: Callable[[str], str]) -> list[Sequence[Part]]:
        """What was sent. Where nothing was, the customer goes on."""
        contents: list[Sequence[Part]] = []
        user: list[Part] = []
        for turn in state.history:
            user += (["\n"] if user else []) + self._user(None, turn.customer_message, turn.tool_messages, bound)
            sent = turn.sent_message or (turn.suggestion if turn.reaction == "accepted" else None) or ""
            if sent.strip():
                contents += [user, [bound(escape(sent))]]
                user = []
        user += (["\n"] if user else []) + self._user(None, state.customer_message, state.tool_messages, bound)
        return [*contents, user]


def _sent_note(previous: Turn) -> str:
    """What follows the reaction's marker: the message sent instead, if there was one, and a line break."""
    sent = "" if previous.reaction == "accepted" or not previous.sent_message else f" {escape(previous.sent_message)}"
    return f"{sent}\n"
