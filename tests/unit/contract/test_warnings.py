"""Warnings in a stage's result: they never make it larger than a termination message may be."""

from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.contract.lines import one_line
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, MAX_WARNING, MAX_WARNINGS, StageResult

PLAIN = StageResult(stage="collect", iteration=1, input_digest=f"sha256:{'0' * 64}")


@given(st.lists(st.text(st.characters(codec=None), max_size=2 * MAX_WARNING), max_size=12))
def test_any_warnings_fit(texts: list[str]) -> None:
    result = PLAIN.with_warnings(texts)
    assert len(result.to_message()) <= MAX_RESULT_BYTES
    assert StageResult.model_validate_json(result.to_message()) == result
    shown = result.warnings or ()
    assert len(shown) == len(set(shown)) <= MAX_WARNINGS
    lines = [line for text in texts if (line := one_line(text))]
    assert all(any(line.startswith(one.removesuffix("…")) for line in lines) for one in shown)
    assert bool(shown) == bool(lines)


def test_a_result_without_warnings_has_no_such_field() -> None:
    """An operator of release 0.2 reads it."""
    assert b"warnings" not in PLAIN.with_warnings([]).to_message()


def test_what_is_said_twice_is_there_once() -> None:
    assert PLAIN.with_warnings(["cut", "cut", "unended"]).warnings == ("cut", "unended")
