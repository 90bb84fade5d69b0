"""What exploring cost: outcomes of personas against those of the policy as it is."""

import pytest
from ippo_trainer.data.counts import Ended
from ippo_trainer.report.exploring import difference, of_personas
from ippo_trainer.report.model import Cycle, RunReport


def run_of(**held: Ended) -> RunReport:
    return RunReport(
        "shop", {}, [Cycle(1, personas={"" if name == "alone" else name: each for name, each in held.items()})]
    )


def test_a_persona_that_sells_less_cost_what_the_policy_would_have_sold_more() -> None:
    table = of_personas(run_of(alone=Ended(1000, 200), bold=Ended(100, 10), new=Ended(0, 0)))
    assert table is not None
    assert [list(row) for row in table.rows] == [
        ["the policy as it is", "1,000", "200", "–"],
        ["bold", "100", "100", "10 (+2 to +15)"],
        ["new", "0", "–", "–"],
    ]


def test_one_that_sells_more_cost_less_than_nothing() -> None:
    table = of_personas(run_of(alone=Ended(1000, 100), bold=Ended(100, 30)))
    assert table is not None
    assert table.rows[1][3].startswith("−20 (−30 to −12)")


def test_without_personas_there_is_no_table() -> None:
    assert of_personas(RunReport("shop", {}, [Cycle(1)])) is None


def test_the_interval_is_newcombes() -> None:
    """Table II of Newcombe 1998, example (a): 56 of 70 less 48 of 80, method 10."""
    middle, low, high = difference(Ended(70, 56), Ended(80, 48))
    assert (middle, low, high) == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
