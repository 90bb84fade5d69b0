"""examples/my_environment.py, which docs/environments.md shows to people who bring their own simulator."""

from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.environments import Demonstrator, load
from ippo_trainer.environments.checked import CheckedEnvironment
from ippo_trainer.environments.demonstrations import demonstrate

EXAMPLE = Path(__file__).parents[3] / "examples" / "my_environment.py"
ASK, OFFER = "which tea do you like", "i can offer you a box of tea"


def shop(**options: str) -> CheckedEnvironment:
    return load(EnvironmentSpec(name=f"{EXAMPLE}:TeaShop", options=options))


def sold(seeds: list[int], script: list[str], **options: str) -> list[bool]:
    """Which of the customers bought from a business that follows a script."""
    environment = shop(**options)
    environment.reset(seeds)
    waiting, bought = list(range(len(seeds))), [False] * len(seeds)
    for line in script:
        steps = environment.step([line] * len(waiting))
        for number, step in zip(waiting, steps, strict=True):
            bought[number] = step.outcome
        waiting = [n for n, step in zip(waiting, steps, strict=True) if step.customer_message is not None]
    assert waiting == []
    return bought


def test_it_is_short_and_imports_nothing_of_the_package() -> None:
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 40
    assert "ippo_" not in text


def test_asking_first_sells_more() -> None:
    seeds = list(range(2000))
    assert sum(sold(seeds, [ASK, OFFER, OFFER, OFFER])) > 2 * sum(sold(seeds, [OFFER] * 4))


def test_a_conversation_does_not_depend_on_its_batch() -> None:
    script = [ASK, OFFER, OFFER, OFFER]
    together = sold([1, 2, 3, 4, 5], script)
    assert together == [sold([seed], script)[0] for seed in (1, 2, 3, 4, 5)]


def test_it_makes_a_first_log_with_successes_and_failures() -> None:
    environment = shop()
    assert isinstance(environment, Demonstrator)
    conversations = demonstrate(environment, range(300), "tea")
    assert {found.outcome for found in conversations} == {True, False}
    assert {turn.suggestion for found in conversations for turn in found.turns} >= {ASK, OFFER, None}


def test_the_page_quotes_the_errors_as_they_are(tmp_path: Path) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "environments.md").read_text()
    with pytest.raises(BadSpecError) as unknown:
        shop(price="3")
    assert str(unknown.value).replace(str(EXAMPLE), "examples/my_environment.py") in page
    for number, (right, wrong) in enumerate(
        [
            ('reaction = "accepted"', 'reaction = "ok"'),
            ("return steps", "return steps[:1]"),
            ('talk["random"].random() <', "1 / 0 <"),
        ]
    ):
        broken = tmp_path / str(number) / EXAMPLE.name
        broken.parent.mkdir()
        broken.write_text(EXAMPLE.read_text().replace(right, wrong))
        environment = load(EnvironmentSpec(name=f"{broken}:TeaShop"))
        environment.reset([1, 2])
        with pytest.raises(BadDataError) as error:
            environment.step([ASK, ASK])
        assert str(error.value) in page
