"""Operators are found by name; a second one is one more file."""

import sys
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.ppo import algorithms
from ippo_trainer.ppo.operators import find, names


def test_ppo_is_there() -> None:
    assert "PPO" in names()


def test_an_unknown_one_is_a_bad_spec() -> None:
    with pytest.raises(BadSpecError, match=r"improve.algorithm 'DPO' is unknown. Use one of .*PPO"):
        find("DPO")


def test_a_second_one_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing.py").write_text("def make(policy, q, settings):\n    return 'the operator'\n")
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    try:
        assert find("NOTHING")(None, None, None) == "the operator"  # type: ignore[arg-type, comparison-overlap]
    finally:
        sys.modules.pop(f"{algorithms.__name__}.nothing", None)
