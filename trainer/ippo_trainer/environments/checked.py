"""Holds an environment, which may be anybody's code, to the protocol."""

import sys
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ippo_trainer.contract.errors import BadDataError, StageError
from ippo_trainer.data.context import context_of, tool_messages_of
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.environments.failures import failure, short
from ippo_trainer.environments.protocol import (
    Demonstrator,
    ExactScore,
    ExactScorer,
    ExactTurn,
    IntentPolicy,
    LadderRow,
    Opening,
    Resumable,
    Step,
)

if TYPE_CHECKING:
    from ippo_trainer.data.schema import Conversation

_REQUIRED = ("reaction", "sent_message", "customer_message", "outcome")
_OPTIONAL = ("censored", "displayed", "tool_messages")
_OPENING = ("customer_message", "context", "tool_messages")


def checked(inner: Any, name: str) -> "CheckedEnvironment":
    """Wraps an environment; the wrapper is a Demonstrator or an ExactScorer if, and only if, `inner` is one."""
    demonstrates, exact = _is(inner, name, Demonstrator), _is(inner, name, ExactScorer)
    if demonstrates and exact:
        return _CheckedDemonstratorAndScorer(inner, name)
    if demonstrates:
        return _CheckedDemonstrator(inner, name)
    return _CheckedScorer(inner, name) if exact else CheckedEnvironment(inner, name)


def is_unicode(text: str) -> bool:
    """Whether the text can be written: half of a surrogate pair, which a str can hold, has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_of(inner: Any) -> str:
    """The file that holds a class, or an object's class; empty where there is none."""
    kind = inner if isinstance(inner, type) else type(inner)
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def _plain(text: str) -> str:
    """The characters of a text, which may be of a class of its own: of an enumeration, or numpy's."""
    return str.__str__(text)


@contextmanager
def _naming_errors(what: str, inner: Any) -> Iterator[None]:
    """What somebody else's code raises inside, also late, in a property or a list of its own, names the code.

    `sys.exit(0)` in a simulator is no success of the stage. Ctrl-C and a stage that is told to stop are not the code's.
    """
    try:
        yield
    except StageError:
        raise
    except (Exception, SystemExit, GeneratorExit, CancelledError) as error:
        raise failure(what, error, file_of(inner)) from error


def _read(inner: Any, name: str, attribute: str, default: Any) -> Any:
    """An attribute, which may be a property that raises."""
    with _naming_errors(f"environment {name}.{attribute} raised", inner):
        return getattr(inner, attribute, default)


def _is(inner: Any, name: str, protocol: type) -> bool:
    """Whether an environment has the members of a protocol; some of them may be properties that raise."""
    with _naming_errors(f"environment {name}, asked for the members of {protocol.__name__}, raised", inner):
        return isinstance(inner, protocol)


class CheckedEnvironment:
    """An environment held to its contract: what it does wrong becomes a BadDataError that names `Class.method`."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner = inner
        self._name = name
        turns = _read(inner, name, "max_turns", None)
        if isinstance(turns, bool) or not isinstance(turns, int | np.integer) or turns < 1:
            raise BadDataError(f"{name}.max_turns is {turns!r}", "Set it to the largest number of turns, at least 1.")
        prompt = _read(inner, name, "system_prompt", "")
        if not isinstance(prompt, str) or not is_unicode(prompt):
            raise BadDataError(f"{name}.system_prompt is {prompt!r:.80}", "It must be a string of valid Unicode.")
        for method in ("reset", "step"):
            if not callable(getattr(inner, method, None)):
                raise BadDataError(
                    f"{name} has no method {method}", "See ippo_trainer.environments.protocol.Environment."
                )
        self.max_turns: int = int(turns)
        self.system_prompt: str = _plain(prompt)
        self._open = 0
        self._turn = 0
        if _is(inner, name, Resumable):
            self.resume = self._resume

    def reset(self, seeds: Sequence[int]) -> list[Opening]:
        """As `Environment.reset`; every first message must be a text, and what is given with it becomes one."""
        openings = self._call("reset", list(seeds))
        with self._reading("reset"):
            self._check_list("reset", openings, len(seeds))
            openings = [self._check_opening(i, value) for i, value in enumerate(openings)]
        self._open, self._turn = len(seeds), 0
        return openings

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """As `Environment.step`; a mapping with the fields of `Step` is as good as a `Step`."""
        if len(suggestions) != self._open:
            raise ValueError(f"{len(suggestions)} suggestions for {self._open} open conversations")
        answers = self._call("step", list(suggestions))
        with self._reading("step"):
            self._check_list("step", answers, len(suggestions))
            steps = [self._check_step(i, answer) for i, answer in enumerate(answers)]
        self._turn += 1
        self._open = sum(step.customer_message is not None and not step.censored for step in steps)
        if self._open and self._turn >= self.max_turns:
            self._fail(
                "step", f"left {self._open} conversations open after max_turns={self.max_turns} turns", "End them."
            )
        return steps

    def _resume(self, seeds: Sequence[int], conversations: "Sequence[Conversation]", messages: Sequence[str]) -> None:
        """As `Resumable.resume`; all conversations have had equally many turns."""
        self._call("resume", list(seeds), list(conversations), list(messages))
        self._open, self._turn = len(seeds), len(conversations[0].turns) if conversations else 0

    def _call(self, method: str, *arguments: Any) -> Any:
        with _naming_errors(f"environment {self._name}.{method} raised", self._inner):
            return getattr(self._inner, method)(*arguments)

    def _reading(self, method: str) -> AbstractContextManager[None]:
        return _naming_errors(f"what environment {self._name}.{method} returned raised", self._inner)

    def _fail(self, method: str, what: str, remedy: str) -> NoReturn:
        raise BadDataError(f"environment {self._name}.{method} {what}", remedy)

    def _check_list(self, method: str, value: Any, length: int) -> None:
        if isinstance(value, str) or not isinstance(value, Sequence):
            self._fail(method, f"returned {type(value).__name__}", "It must return a list.")
        if len(value) != length:
            self._fail(
                method, f"returned {len(value)} items for {length} open conversations", "One for each, in order."
            )

    def _check_opening(self, index: int, value: Any) -> Opening:
        where = f"conversation {index}"
        fields: dict[str, Any] = {"customer_message": value}
        if isinstance(value, Mapping):
            fields = dict(value)
        elif not isinstance(value, str):
            fields = {name: getattr(value, name) for name in _OPENING if hasattr(value, name)} or fields
        if not fields.keys() <= set(_OPENING):
            unknown = min(map(str, fields.keys() - set(_OPENING)))
            self._fail(
                "reset", f"gave {unknown!r:.80} for {where}", f"Give a text, or a dict of {', '.join(_OPENING)}."
            )
        message: Any = fields.get("customer_message")
        if not _is_text(message):
            problem = f"gave {message!r:.80} as the first message of {where}"
            self._fail("reset", problem, "It must be a text of valid Unicode.")
        with self._naming("reset", where):
            context = context_of("context", fields.get("context"))
            tools = _tools(fields.get("tool_messages"))
        return Opening(_plain(message), context, tools)

    @contextmanager
    def _naming(self, method: str, where: str) -> Iterator[None]:
        """Errors inside get the place."""
        try:
            yield
        except BadDataError as error:
            self._fail(method, f"returned a wrong {error.message} (in {where})", error.remedy)

    def _check_step(self, index: int, value: Any) -> Step:
        where = f"item {index} of turn {self._turn}"
        try:
            fields = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in _REQUIRED}
            optional = (
                {} if isinstance(value, Mapping) else {n: getattr(value, n) for n in _OPTIONAL if hasattr(value, n)}
            )
            step = Step(**{**fields, **optional})
        except (TypeError, AttributeError) as error:
            self._fail(
                "step",
                f"returned a wrong {where}: {short(error)}",
                f"Give a Step, or a dict of {', '.join(_REQUIRED)}.",
            )
        return self._check_values(step, where)

    def _check_values(self, step: Step, where: str) -> Step:
        if not isinstance(step.reaction, str) or step.reaction not in REACTIONS:
            self._fail(
                "step", f"returned reaction {step.reaction!r:.80} in {where}", f"Use one of {', '.join(REACTIONS)}."
            )
        if not isinstance(step.sent_message, str) or not is_unicode(step.sent_message):
            problem = f"returned sent_message {step.sent_message!r:.80} in {where}"
            self._fail("step", problem, "It must be a string of valid Unicode.")
        if step.customer_message is not None and not _is_text(step.customer_message):
            problem = f"returned customer_message {step.customer_message!r:.80} in {where}"
            self._fail("step", problem, "A text of valid Unicode, or None when the conversation is over.")
        for name in ("outcome", "censored", "displayed"):
            if not isinstance(getattr(step, name), bool | np.bool_):
                self._fail(
                    "step", f"returned {name} {getattr(step, name)!r:.80} in {where}", "It must be True or False."
                )
        if step.customer_message is not None and step.outcome:
            self._fail("step", f"went on after outcome=True in {where}", "Then customer_message must be None.")
        if step.outcome and step.censored:
            self._fail(
                "step", f"returned outcome and censored together in {where}", "An outcome that came is not unknown."
            )
        flags: dict[str, Any] = {name: bool(getattr(step, name)) for name in ("outcome", "censored", "displayed")}
        with self._naming("step", where):
            tools = _tools(step.tool_messages)
        texts: dict[str, Any] = {name: _plain(getattr(step, name)) for name in ("reaction", "sent_message")}
        message = None if step.customer_message is None else _plain(step.customer_message)
        return replace(step, **flags, **texts, customer_message=message, tool_messages=tools)


def _tools(value: Any) -> tuple[str, ...]:
    return tool_messages_of("tool_messages", () if value is None or value == "" else value)


class _CheckedDemonstrator(CheckedEnvironment):
    def demonstrate(self) -> list[str | None]:
        """As `Demonstrator.demonstrate`."""
        suggestions = self._call("demonstrate")
        with self._reading("demonstrate"):
            self._check_list("demonstrate", suggestions, self._open)
            return [self._check_suggestion(i, suggestion) for i, suggestion in enumerate(suggestions)]

    def _check_suggestion(self, index: int, suggestion: Any) -> str | None:
        if suggestion is None:
            return None
        if not _is_text(suggestion):
            problem = f"gave {suggestion!r:.80} for open conversation {index}"
            self._fail("demonstrate", problem, "A text of valid Unicode, or None to abstain.")
        return _plain(suggestion)


class _CheckedScorer(CheckedEnvironment):
    def __init__(self, inner: Any, name: str) -> None:
        super().__init__(inner, name)
        with _naming_errors(f"environment {name}.intents or {name}.wordings raised", inner):
            self.intents: tuple[str, ...] = tuple(inner.intents)
            self.wordings: Mapping[str, Sequence[str]] = inner.wordings

    def ladder(self, discount: float) -> list[LadderRow]:
        """As `ExactScorer.ladder`."""
        return list(self._call("ladder", discount))

    def score(self, conversations: "Sequence[Conversation]", discount: float) -> ExactScore:
        """As `ExactScorer.score`."""
        score: ExactScore = self._call("score", conversations, discount)
        return score

    def exact_q(
        self, conversations: "Sequence[Conversation]", discount: float, policy: IntentPolicy | None = None
    ) -> list[list[ExactTurn]]:
        """As `ExactScorer.exact_q`."""
        return list(self._call("exact_q", conversations, discount, policy))

    def intent_of(self, suggestion: str | None) -> str:
        """As `ExactScorer.intent_of`."""
        return str(self._call("intent_of", suggestion))


class _CheckedDemonstratorAndScorer(_CheckedDemonstrator, _CheckedScorer):
    pass
