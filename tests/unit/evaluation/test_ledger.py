"""The ledger keeps one line per iteration."""

from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import LEDGER
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.evaluation.ledger import read_ledger, write_line
from ippo_trainer.store import open_store


def test_lines_are_replaced_and_sorted(tmp_path: Path) -> None:
    store = open_store(StoreLocation(directory=str(tmp_path)))
    assert read_ledger(store) == []
    for iteration, value in ((2, 0.2), (10, 1.0), (1, 0.1), (2, 0.3)):
        write_line(store, {"iteration": iteration, "metrics": {"value": value}})
    assert [(line["iteration"], line["metrics"]["value"]) for line in read_ledger(store)] == [
        (1, 0.1),
        (2, 0.3),
        (10, 1.0),
    ]
    assert store.read(LEDGER).count(b"\n") == 3


@pytest.mark.parametrize("line", ["{", '{"metrics": {}}', "[]", '{"iteration": "x"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    store = open_store(StoreLocation(directory=str(tmp_path)))
    store.put(LEDGER, b'{"iteration": 1}\n' + line.encode() + b"\n")
    with pytest.raises(BadDataError, match="line 2"):
        write_line(store, {"iteration": 3})
