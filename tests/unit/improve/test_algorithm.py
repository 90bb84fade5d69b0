"""Algorithms are found by name; a second one is one more file."""

import sys
from pathlib import Path
from typing import get_args

import pytest
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.params import Improve
from ippo_trainer.improve import algorithms
from ippo_trainer.improve.algorithm import find, names


def test_those_that_are_there_are_those_that_a_manifest_may_name() -> None:
    literal, _ = get_args(Improve.model_fields["algorithm"].annotation)  # it may be left out
    assert names() == sorted(get_args(literal)) == sorted(ALGORITHMS)


def test_an_unknown_one_is_a_bad_spec() -> None:
    with pytest.raises(BadSpecError, match=r"improve.algorithm 'DPO' is unknown. Use one of .*PPO"):
        find("DPO")


def test_a_second_one_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing.py").write_text("class NOTHING:\n    def __init__(self, task):\n        self.task = task\n")
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    try:
        assert vars(find("NOTHING")("the task")) == {"task": "the task"}  # type: ignore[arg-type]
    finally:
        sys.modules.pop(f"{algorithms.__name__}.nothing", None)
