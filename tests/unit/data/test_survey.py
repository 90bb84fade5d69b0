"""What a log holds and what is wrong with it, before a run is started from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data import survey as module
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.outcomes import Outcomes
from ippo_trainer.data.survey import needed_conversations, suggested_limits, survey
from ippo_trainer.qfit.report import CONFIDENCE
from ippo_trainer.stats.scores import Predictions, slope


def chat(number: int, *replies: str, outcome: bool | None = False, **fields: Any) -> dict[str, Any]:
    messages = []
    for reply in replies:
        messages += [{"role": "user", "content": "hi"}, {"role": "assistant", "content": reply}]
    return {"conversation_id": number, "messages": messages, "outcome": outcome, **fields}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_figures(tmp_path: Path) -> None:
    lines = [
        chat(1, "yes", outcome=True, customer_id="ann"),
        chat(2, "yes", "no", customer_id="ann"),
        chat(3, "yes", "no", outcome=None, customer_id="bob", writer="bot"),
        chat(4, "yes", "tea", "done", outcome=True),
    ]
    figures = survey(LogReader(write(tmp_path / "a.jsonl", *lines)))
    assert (figures["conversations"], figures["turns"], figures["problems"]["count"]) == (4, 8, 0)
    assert figures["outcomes"] == {"won": 2, "lost": 1, "open": 1, "success": 2 / 3}
    assert figures["writers"] == {"people": 6, "bot": 2}
    assert figures["customers"] == {"named": 2, "most": 2}
    assert figures["alike"] == 1  # the third says what the second does
    assert figures["suggestions"] == {"different": 4, "commonest": 4}
    assert figures["openings"] == {"different": 1, "oneSuggestion": 1}
    assert [(row["turn"], row["reached"], row["won"], row["lost"], row["open"]) for row in figures["funnel"]] == [
        (1, 4, 1, 0, 0),
        (2, 3, 0, 1, 1),
        (3, 1, 1, 0, 0),
    ]
    assert json.loads(json.dumps(figures)) == figures


def test_all_problems_with_counts_and_the_figures_of_the_rest(tmp_path: Path) -> None:
    robots = [{**chat(n, "x"), "messages": [{"role": "robot", "content": "x"}]} for n in range(100, 150)]
    slip = {name.replace("outcome", "outcom"): value for name, value in chat(2, "no").items()}
    path = write(tmp_path / "a.jsonl", chat(1, "yes", outcome=True), "{", *robots, slip)
    orders = tmp_path / "o.csv"
    orders.write_text("conversation_id,outcome\n1,false\n")
    figures = survey(LogReader(path), Outcomes(orders))
    kinds = figures["problems"]["kinds"]
    assert figures["problems"]["count"] == 53
    assert (kinds[0]["count"], kinds[0]["places"]) == (50, ["line 3", "line 4", "line 5", "line 6"])
    assert 'messages[0].role is "robot"' in kinds[0]["problem"]
    problems = " ".join(kind["problem"] for kind in kinds)
    assert "is not JSON" in problems
    assert "unknown field outcom" in problems
    assert "outcome of conversation '1' is true" in problems
    assert figures["conversations"] == 0  # the only one that can be read contradicts the orders


def test_lengths_are_measured_on_conversations_from_all_over_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEASURED", 20)
    path = write(tmp_path / "a.jsonl", *(chat(n, "x") for n in range(1000)))
    measured = []

    def measure(conversation: Any) -> tuple[int, list[int]]:
        measured.append(int(conversation.id))
        return int(conversation.id), [7]

    figures = survey(LogReader(path), measure=measure)
    assert len(measured) < 200
    assert figures["lengths"]["longestPrompt"]["50"] == pytest.approx(500, abs=60)
    assert figures["limits"]["policy.maxNewTokens"] == 16


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_limits_are_wide_enough_and_not_twice_as_wide(prompt: int, suggestion: int) -> None:
    shares = {"50": 1, "90": prompt, "99": suggestion, "100": 9999}
    limits = suggested_limits({"longestPrompt": shares, "suggestion": shares})
    assert limits is not None
    assert prompt <= limits["policy.maxPromptTokens"] <= max(64, 2 * prompt)
    assert suggestion < limits["policy.maxNewTokens"] <= max(16, 2 * (suggestion + 1))


@pytest.mark.parametrize("explained", [0.02, 0.1])
@pytest.mark.parametrize("success", [0.05, 0.5])
def test_so_many_conversations_tell_q_from_a_constant_four_times_of_five(explained: float, success: float) -> None:
    """The test of fit-q, on many simulated held-out sets of a Q that is right."""
    rng, count = np.random.default_rng(0), 300
    held = round(needed_conversations(explained, success) * 0.15)
    q = success + (explained * success * (1 - success)) ** 0.5 * rng.choice([-1, 1], (count, held))
    outcomes = (rng.random((count, held)) < q).astype(float)
    turns, ones = np.arange(held), np.ones(held)
    passed = sum(
        slope(Predictions(*row, np.zeros(held, int), turns, ones), CONFIDENCE).low > 0
        for row in zip(q, outcomes, strict=True)
    )
    assert 0.7 * count <= passed <= 0.99 * count


def lengths(conversation: Any) -> tuple[int, list[int]]:
    """What a tokenizer might measure: all sizes tell where in the log the conversation is."""
    number = int(conversation.id)
    return number, [number for turn in conversation.turns if turn.suggestion is not None]


def test_prompts_and_suggestions_are_measured_of_the_same_conversations_all_over_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEASURED", 8)
    path = write(tmp_path / "a.jsonl", *(chat(number, "yes") for number in range(1000)))
    rows = survey(LogReader(path), measure=lengths)["lengths"]
    assert rows["suggestion"] == rows["longestPrompt"]
    assert rows["suggestion"]["50"] == pytest.approx(500, abs=70)


def test_a_log_in_which_nobody_ever_suggested_anything(tmp_path: Path) -> None:
    silent = chat(1, "no")
    silent["messages"][1]["suggestion"] = None
    figures = survey(LogReader(write(tmp_path / "a.jsonl", silent)), measure=lengths)
    assert (figures["lengths"], figures["limits"]) == (None, None)


@pytest.mark.parametrize("lines", [[], [{"messages": []}], [{"messages": [{"role": "user", "content": "hi"}]}]])
def test_a_log_without_a_conversation_is_wrong(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    [kind] = survey(LogReader(write(tmp_path / "a.jsonl", *lines)))["problems"]["kinds"]
    assert "no conversations with a customer message and a reply" in kind["problem"]


@pytest.mark.parametrize("outcome", [True, False, None])
def test_no_number_of_conversations_teaches_what_is_always_so(outcome: bool | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(chat(number, "yes", outcome=outcome) for number in range(5)))
    assert survey(LogReader(path))["needed"] == []


def test_names_of_writers_are_fit_for_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**chat(1, "yes"), "writer": "night\n\x1b[2Jbot" * 100})
    [name] = survey(LogReader(path))["writers"]
    assert name.isprintable()
    assert len(name.encode()) <= 80
