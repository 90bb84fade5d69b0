"""The table of the gate's power."""

import sys
from pathlib import Path

from ippo_trainer.contract.params import Gate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import power


def test_large_lifts_are_promoted_large_losses_rejected_and_nothing_is_neither() -> None:
    gate = Gate(metric="Success", confidence="0.95")
    better, worse, equal = (power.outcomes(gate, 0.25, lift, 0.5, 500, 100) for lift in (0.2, -0.2, 0.0))
    assert better["Promote"] == 100
    assert worse["Reject"] == 100
    assert equal["Inconclusive"] >= 90


def test_policies_that_share_their_luck_need_fewer_pairs() -> None:
    gate = Gate(metric="Success", confidence="0.95")
    shared, alone = (power.outcomes(gate, 0.25, 0.03, own, 500, 100)["Promote"] for own in (0.1, 0.9))
    assert shared > alone
