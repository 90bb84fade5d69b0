"""Strangers bring environments: they are found by name, and what they do wrong is named."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.environments import Demonstrator, Environment, ExactScorer, Opening, Step, load, loading

STRANGER = '''
"""A quiz: the customer asks for a colour and is glad to be told its own."""

class Quiz:
    max_turns = 3
    system_prompt = "name a colour"

    def __init__(self, colours="red,blue", patience: int = 3):
        self.colours = colours.split(",")
        self.max_turns = patience

    def reset(self, seeds):
        self.open = [(self.colours[seed % len(self.colours)], 0) for seed in seeds]
        return [f"i like {colour}" for colour, _ in self.open]

    def step(self, suggestions):
        steps, still = [], []
        for (colour, turn), suggestion in zip(self.open, suggestions):
            won = suggestion is not None and colour in suggestion
            over = won or turn + 1 == self.max_turns
            steps.append({
                "reaction": "rejected" if suggestion is None else "accepted",
                "sent_message": suggestion or "hm",
                "customer_message": None if over else f"no i like {colour}",
                "outcome": won,
            })
            if not over:
                still.append((colour, turn + 1))
        self.open = still
        return steps
'''


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    path = tmp_path / "quiz_of_a_stranger.py"
    path.write_text(STRANGER)
    return path


def named(name: str, **options: str | int | bool) -> Environment:
    return load(params.EnvironmentSpec(name=name, options=options))


@pytest.mark.parametrize("name", ["sr-funnel", "double-t-maze", "garden", "catalogue-shop"])
def test_built_in_environments_know_themselves(name: str) -> None:
    env = named(name)
    assert isinstance(env, Environment)
    assert isinstance(env, Demonstrator)
    assert isinstance(env, ExactScorer)
    assert env.ladder(0.9)[0].name == "optimum"
    assert len(env.reset([1, 2, 3])) == 3
    assert len(env.step(env.demonstrate())) == 3
    assert env.intent_of(None) == "ABSTAIN"
    assert env.system_prompt  # type: ignore[attr-defined]


def test_options_reach_the_constructor() -> None:
    assert named("sr-funnel", horizon=4).max_turns == 4


def test_an_environment_in_a_file(stranger: Path) -> None:
    env = named(f"{stranger}:Quiz", colours="green", patience=2)
    assert (env.max_turns, env.reset([0, 1])) == (2, [Opening("i like green", "", ())] * 2)
    assert not isinstance(env, Demonstrator | ExactScorer)
    first = env.step(["green then", None])
    assert first == [Step("accepted", "green then", None, True), Step("rejected", "hm", "no i like green", False)]
    assert env.step(["blue"]) == [Step("accepted", "blue", None, False)]
    assert env.step([]) == []
    assert type(named(f"{stranger}:Quiz")._inner) is type(env._inner)  # type: ignore[attr-defined]


class WatchedLock:
    """Counts who comes."""

    def __init__(self) -> None:
        self.comers, self._lock = threading.Semaphore(0), threading.RLock()

    def __enter__(self) -> None:
        self.comers.release()
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


def test_several_threads_load_the_same_file(tmp_path: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them is held up while it runs the file: the others wait, and find the class."""
    begun, go_on, lock = threading.Event(), threading.Event(), WatchedLock()
    monkeypatch.setattr(loading, "_importing", lock)
    monkeypatch.setattr(sys, "ippo_test", lambda: begun.set() or go_on.wait(60), raising=False)
    slow = tmp_path / "slow.py"
    slow.write_text(f"import sys\nsys.ippo_test()\n{STRANGER}")
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(named, f"{slow}:Quiz")
        assert begun.wait(60)
        others = [pool.submit(named, f"{slow}:Quiz") for _ in range(3)]
        assert all(lock.comers.acquire(timeout=60) for _ in range(4))
        go_on.set()
        assert all(each.result(60).max_turns == 3 for each in (first, *others))


def test_an_environment_in_a_module_of_the_working_directory(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stranger.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(stranger.parent))])
    assert named("quiz_of_a_stranger:Quiz").max_turns == 3
    sys.modules.pop("quiz_of_a_stranger")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "funnel",
            "name 'funnel' is not known. Use one of sr-funnel, double-t-maze, garden, catalogue-shop, or your own",
        ),
        (":Quiz", "is not known"),
        ("quiz:", "is not known"),
        ("no_such_module_at_all:Quiz", "importing no_such_module_at_all failed: ModuleNotFoundError"),
        ("none/such.py:Quiz", "no file none/such.py"),
        ("json:Quiz", "json has no class 'Quiz'"),
        ("json:dumps", "json has no class 'dumps'"),
        ("builtins:dict", "no signature found"),
    ],
)
def test_names_that_cannot_be_found(name: str, problem: str) -> None:
    with pytest.raises(BadSpecError) as caught:
        named(name)
    assert problem in str(caught.value)


@pytest.mark.parametrize("source", ["raise RuntimeError('broken\\nfile')", "import sys; sys.exit(3)", "def ("])
def test_a_file_that_does_not_import(tmp_path: Path, source: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    for _ in range(2):  # nothing half-imported is left behind
        with pytest.raises(BadSpecError, match=r"importing .*broken\.py failed: ") as caught:
            named(f"{path}:Quiz")
        assert "\n" not in str(caught.value)


def test_options_that_it_does_not_take(stranger: Path) -> None:
    with pytest.raises(
        BadSpecError, match=r"environment\.options\.horizn: sr-funnel has no such option\. It takes horizon"
    ):
        named("sr-funnel", horizn=4)
    with pytest.raises(BadSpecError, match=r"options\.colour: .* has no such option\. It takes colours, patience"):
        named(f"{stranger}:Quiz", colour="red")


def test_options_that_it_refuses_or_needs(tmp_path: Path, stranger: Path) -> None:
    with pytest.raises(BadSpecError, match=r"Quiz\(\.\.\.\) raised AttributeError"):
        named(f"{stranger}:Quiz", colours=7)
    path = tmp_path / "needy.py"
    path.write_text("class Needy:\n    max_turns = 1\n    def __init__(self, key, **others): pass\n")
    with pytest.raises(BadSpecError, match=r"options\.key is missing"):
        named(f"{path}:Needy")
    gone = tmp_path / "gone.py"
    gone.write_text("class Gone:\n    def __init__(self): raise SystemExit(0)\n")
    with pytest.raises(BadSpecError, match=r"Gone\(\.\.\.\) raised SystemExit: 0"):
        named(f"{gone}:Gone")
    with pytest.raises(BadDataError, match="Needy has no method reset"):
        named(f"{path}:Needy", key=1, anything="goes")


GIVEN = "{{'customer_message': 'b', '{}': {}}}"
BEFORE = """
from types import SimpleNamespace
import numpy
def step(**change):
    fields = {"reaction": "accepted", "sent_message": "a", "customer_message": "b", "outcome": False}
    return SimpleNamespace(**(fields | change))
class Odd:
    max_turns = 2
    def reset(self, seeds): return ["hello"] * len(seeds)
    def step(self, suggestions): return [step()] * len(suggestions)
"""


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("max_turns = 0", "Odd.max_turns is 0"),
        ("max_turns = None", "Odd.max_turns is None"),
        ("system_prompt = 3", "Odd.system_prompt is 3"),
        ("step = None", "Odd has no method step"),
        ("def reset(self, seeds): return 1 / 0", "Odd.reset raised ZeroDivisionError: division by zero"),
        ("def reset(self, seeds): return []", "Odd.reset returned 0 items for 2 open conversations"),
        ("def reset(self, seeds): return 'ab'", "Odd.reset returned str"),
        ("def reset(self, seeds): return None", "Odd.reset returned NoneType"),
        ("def reset(self, seeds): return ['a', ' ']", "Odd.reset gave ' ' as the first message of conversation 1"),
        ("def reset(self, seeds): return ['a', 4]", "Odd.reset gave 4 as the first message of conversation 1"),
        ("def reset(self, seeds): return ['a', {'message': 'b'}]", "Odd.reset gave 'message' for conversation 1"),
        ("def reset(self, seeds): return ['a', {'context': 'b'}]", "Odd.reset gave None as the first message"),
        (
            f"def reset(self, seeds): return ['a', {GIVEN.format('context', 5)}]",
            "wrong context is 5 (in conversation 1)",
        ),
        (f"def reset(self, seeds): return ['a', {GIVEN.format('context', '[numpy]')}]", "context is no JSON"),
        (f"def reset(self, seeds): return ['a', {GIVEN.format('context', repr('x' * 10**6))}]", "has 1,000,000 bytes"),
        (
            f"def reset(self, seeds): return ['a', {GIVEN.format('tool_messages', 'dict(a=1)')}]",
            "tool_messages is of type",
        ),
        (
            "def step(self, s): return [step(tool_messages='a')] * 2",
            "Odd.step returned a wrong tool_messages is of type",
        ),
        ("def step(self, s): return [step(tool_messages=[1])] * 2", "tool_messages[0] is 1"),
        ("def step(self, s): raise KeyError('x')", "Odd.step raised KeyError: 'x'"),
        ("def step(self, s): raise SystemExit(0)", "Odd.step raised SystemExit: 0"),
        ("max_turns = property(lambda self: 1 / 0)", "Odd.max_turns raised ZeroDivisionError: division by zero"),
        ("system_prompt = '\\ud800'", "Odd.system_prompt is '\\ud800'"),
        ("def reset(self, seeds): return ['a', '\\ud800']", "Odd.reset gave '\\ud800' as the first message"),
        ("def step(self, s): return [step(sent_message='\\ud800')] * 2", "Odd.step returned sent_message '\\ud800'"),
        ("def step(self, s): return [step(customer_message='\\ud800')] * 2", "customer_message '\\ud800'"),
        ("def demonstrate(self): return ['a', '\\ud800']", "Odd.demonstrate gave '\\ud800' for open conversation 1"),
        ("def step(self, s): return [step()]", "Odd.step returned 1 items for 2 open conversations"),
        ("def step(self, s): return [step(), 5]", "Odd.step returned a wrong item 1 of turn 0"),
        ("def step(self, s): return [step(), {'reaction': 'accepted'}]", "Odd.step returned a wrong item 1 of turn 0"),
        ("def step(self, s): return [step(), {**vars(step()), 'x': 1}]", "unexpected keyword argument 'x'"),
        ("def step(self, s): return [step(reaction='liked')] * 2", "Odd.step returned reaction 'liked' in item 0"),
        ("def step(self, s): return [step(sent_message=None)] * 2", "Odd.step returned sent_message None"),
        ("def step(self, s): return [step(customer_message='')] * 2", "Odd.step returned customer_message ''"),
        ("def step(self, s): return [step(customer_message=1)] * 2", "Odd.step returned customer_message 1"),
        ("def step(self, s): return [step(outcome=1)] * 2", "Odd.step returned outcome 1"),
        ("def step(self, s): return [step(outcome=True)] * 2", "Odd.step went on after outcome=True"),
        (
            "def step(self, s): return [step(customer_message=None, outcome=True, censored=True)] * 2",
            "Odd.step returned outcome and censored together",
        ),
        ("def demonstrate(self): return ['a']", "Odd.demonstrate returned 1 items"),
        ("def demonstrate(self): return ['a', '']", "Odd.demonstrate gave '' for open conversation 1"),
        ("", "Odd.step left 2 conversations open after max_turns=2 turns"),
    ],
)
def test_contract_violations_name_class_and_method(tmp_path: Path, code: str, problem: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(BEFORE + f"    {code}\n")

    def play() -> None:
        env: Any = named(f"{path}:Odd")
        env.reset([1, 2])
        for _ in range(9):
            env.step(env.demonstrate() if isinstance(env, Demonstrator) else ["hi", None])

    with pytest.raises(BadDataError) as caught:
        play()
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_flags_and_censoring_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        BEFORE + "    def step(self, s): return [step(customer_message=None, outcome=numpy.bool_(True)),"
        " step(customer_message=None, censored=True, displayed=False)][: len(s)]\n"
    )
    env = named(f"{path}:Odd")
    env.reset([1, 2])
    assert env.step(["hi", None]) == [
        Step("accepted", "a", None, True),
        Step("accepted", "a", None, False, True, False),
    ]
    assert env.step([]) == []


def test_the_caller_must_answer_every_open_conversation() -> None:
    env = named("sr-funnel")
    env.reset([1, 2])
    with pytest.raises(ValueError, match="1 suggestions for 2"):
        env.step(["hi"])


def test_other_capabilities_go_through(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        BEFORE
        + "    def ladder(self, discount): return []\n    def score(self, c, d): raise OSError('no')\n"
        + "    def exact_q(self, c, d, policy=None): return []\n    def intent_of(self, s): return 'X'\n"
        + "    intents, wordings = ('X',), {'X': ['x']}\n"
    )
    env: Any = named(f"{path}:Odd")
    assert isinstance(env, ExactScorer)
    assert not isinstance(env, Demonstrator)
    assert (env.ladder(0.5), env.exact_q([], 0.5), env.intent_of("a")) == ([], [], "X")
    assert (env.intents, env.wordings) == (("X",), {"X": ["x"]})
    with pytest.raises(BadDataError, match=r"Odd\.score raised OSError"):
        env.score([], 0.5)


def test_what_is_given_comes_as_text_whatever_it_was(tmp_path: Path) -> None:
    path = tmp_path / "giving.py"
    path.write_text(
        BEFORE
        + """
    def reset(self, seeds):
        from ippo_trainer.environments import Opening
        given = {"b": [1, 2.0], "a": "x: y"}
        return [
            Opening("hi", given, [given, "t"]),
            {"customer_message": "hi", "context": " text "},
            SimpleNamespace(customer_message="hi", context=None),
            "hi",
        ]
    def step(self, suggestions): return [step(tool_messages=({"stock": 1},)), *[step()] * 3]
"""
    )
    env: Any = named(f"{path}:Odd")
    text = 'a: "x: y"\nb:\n  - 1\n  - 2'
    assert env.reset([1, 2, 3, 4]) == [
        Opening("hi", text, (text, "t")),
        Opening("hi", "text", ()),
        Opening("hi", "", ()),
        Opening("hi", "", ()),
    ]
    assert [step.tool_messages for step in env.step(["a"] * 4)] == [("stock: 1",), (), (), ()]
