"""Whatever an environment gives is read as what it is, or refused with the name of class and method."""

import asyncio
import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ippo_trainer.contract.errors import StageError
from ippo_trainer.environments.checked import checked
from ippo_trainer.stages.stop import Interrupted

STEP = {"reaction": "accepted", "sent_message": "yes", "customer_message": "and?", "outcome": False}


class Say(enum.StrEnum):
    HELLO = "hello"
    EDITED = "edited"

    def __str__(self) -> str:
        return "Say." + self.name


class OldSay(str, enum.Enum):  # noqa: UP042 - as others still write them
    HELLO = "hello"
    EDITED = "edited"


class Late:
    """Its values are asked for when they are read."""

    reaction, sent_message, context = "accepted", "yes", ""

    @property
    def customer_message(self) -> str:
        raise ValueError("late")


class Endless(list[Any]):
    def __len__(self) -> int:
        raise ValueError("late")


class WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("late")


class Shop:
    max_turns = 5

    def reset(self, seeds: Any) -> Any:
        return ["hi" for _ in seeds]

    def step(self, suggestions: Any) -> Any:
        return [dict(STEP) for _ in suggestions]

    def demonstrate(self) -> Any:
        return ["yes"]


def shop(**members: Any) -> Any:
    return type("Shop", (Shop,), members)()


def held(inner: Any) -> tuple[Any, Any, Any]:
    """An opening, a suggestion and a step."""
    environment: Any = checked(inner, "Shop")
    return environment.reset([1])[0], environment.demonstrate()[0], environment.step([None])[0]


def giving(value: Any) -> Callable[..., Any]:
    return lambda self, batch=(None,): [value for _ in batch]


def raising(error: BaseException) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any) -> Any:
        raise error

    return method


@pytest.mark.parametrize("hello", [Say.HELLO, OldSay.HELLO, np.str_("hello")])
@pytest.mark.parametrize("edited", [Say.EDITED, OldSay.EDITED, np.str_("edited")])
def test_texts_of_classes_of_their_own_are_their_characters(hello: Any, edited: Any) -> None:
    step = {**STEP, "reaction": edited, "sent_message": hello, "customer_message": hello, "tool_messages": [hello]}
    inner = shop(reset=giving(hello), demonstrate=giving(hello), step=giving(step), system_prompt=hello)
    opening, suggestion, after = held(inner)
    texts = [opening.customer_message, suggestion, after.sent_message, after.customer_message, *after.tool_messages]
    assert texts == ["hello"] * 5
    assert after.reaction == "edited"
    assert {type(text) for text in [*texts, after.reaction, checked(inner, "Shop").system_prompt]} == {str}


@pytest.mark.parametrize("turns", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_turns(turns: Any) -> None:
    assert repr(checked(shop(max_turns=turns), "Shop").max_turns) == "3"


TWO = np.array(["a", "b"])
STRANGE: dict[str, Any] = {
    "late opening": {"reset": giving(Late())},
    "late step": {"step": giving(Late())},
    "late list": {"step": lambda self, suggestions: Endless()},
    "late demonstrations": {"demonstrate": lambda self: Endless()},
    "reactions": {"step": giving({**STEP, "reaction": TWO})},
    "a reaction in an array": {"step": giving({**STEP, "reaction": np.array(["accepted"])})},
    "tools": {"step": giving({**STEP, "tool_messages": TWO})},
    "tools of an opening": {"reset": giving({"customer_message": "hi", "tool_messages": TWO})},
    "an error without words": {"step": raising(WordlessError())},
    "cancelled": {"step": raising(asyncio.CancelledError())},
    "no generator": {"step": raising(GeneratorExit())},
    "exit": {"step": raising(SystemExit(0))},
    "a property": {"demonstrate": property(raising(ValueError("late")))},
    "turns": {"max_turns": property(raising(ValueError("late")))},
    "intents": {
        **dict.fromkeys(("ladder", "score", "exact_q", "intent_of"), giving("")),
        **{"intents": None, "wordings": {}},
    },
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_cannot_be_read_names_the_class(kind: str) -> None:
    with pytest.raises(StageError, match="Shop"):
        held(shop(**STRANGE[kind]))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Interrupted])
def test_an_interrupted_turn_is_no_fault_of_the_environment(interruption: type[BaseException]) -> None:
    with pytest.raises(interruption):
        held(shop(step=raising(interruption())))
