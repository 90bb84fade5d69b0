"""The table of the A/B test's power."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import canary_power


def test_what_a_single_look_needs_is_the_textbooks() -> None:
    """Two equal groups, 10 % against 15 %, one-sided .05, power .8: 540 each."""
    assert canary_power.Case(0.1, 0.5, 0.5, 0.05).single() == pytest.approx(2 * 537, rel=0.01)


def test_larger_lifts_are_found_sooner_and_no_lift_hardly_ever() -> None:
    small, large = (canary_power.promoted_after(canary_power.Case(0.1, lift, 0.5, 0.05), 60) for lift in (0.5, 1.0))
    assert np.median(large) < np.median(small) < np.inf


def test_a_rate_above_one_is_no_case() -> None:
    assert canary_power.cell(canary_power.Case(0.5, 1.0, 0.5, 0.05), 1) == "-"
