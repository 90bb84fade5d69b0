"""How many updates see every row for the first time."""

import pytest
from ippo_trainer.sft.order import training_order, updates_of_new_rows


@pytest.mark.parametrize(("rows", "epochs", "batch"), [(1000, 3, 8), (1000, 1, 8), (90, 1, 8), (399, 4, 4), (7, 1, 8)])
def test_no_row_comes_twice_before(rows: int, epochs: int, batch: int) -> None:
    order = training_order([1 + number % 9 for number in range(rows)], epochs, batch, 3)
    seen = order[: batch * updates_of_new_rows(rows, epochs, batch)]
    assert len(set(seen)) == len(seen)
    assert len(seen) > rows // 2 or rows < 400
