"""Algorithms are found by name; a second one is one more file."""

import pkgutil
import sys
from pathlib import Path
from typing import get_args

import pytest
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.params import Improve
from ippo_trainer.improve import algorithms
from ippo_trainer.improve.algorithm import find


def test_those_that_are_there_are_those_that_a_manifest_may_name() -> None:
    literal, _ = get_args(Improve.model_fields["algorithm"].annotation)  # it may be left out
    assert sorted(get_args(literal)) == sorted(ALGORITHMS)
    assert {module.name for module in pkgutil.iter_modules(algorithms.__path__)} == {
        name.lower() for name in ALGORITHMS
    }
    assert [find(name).__name__ for name in ALGORITHMS] == list(ALGORITHMS)


@pytest.mark.parametrize("name", ["DPO", "ppo", "mpothenppo", ""])
def test_an_unknown_one_is_a_bad_spec(name: str) -> None:
    with pytest.raises(BadSpecError, match=rf"improve.algorithm '{name}' is unknown. Use one of .*PPO"):
        find(name)


def test_a_second_one_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing.py").write_text("class NOTHING:\n    def __init__(self, task):\n        self.task = task\n")
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    try:
        assert vars(find("NOTHING")("the task")) == {"task": "the task"}  # type: ignore[arg-type]
    finally:
        sys.modules.pop(f"{algorithms.__name__}.nothing", None)
