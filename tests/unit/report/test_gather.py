"""What the report reads of a run: whole, in progress, rejected, damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.contract.layout import LEDGER, LOG, result_key
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.survey import survey
from ippo_trainer.report import gather, render
from ippo_trainer.report.log_sections import LogAccount
from ippo_trainer.report.words import headline, state, subline, verdict

from . import synthetic


def test_a_whole_run_is_read(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path)
    run = made.report()
    assert run.problems == []
    assert run.name == "demo"
    assert run.environment == "sr-funnel"
    assert [cycle.iteration for cycle in run.cycles] == [0, 1, 2, 3, 4]
    assert [run.promoted(cycle) for cycle in run.evaluated] == [True, True, False, True]
    assert run.after is not None
    assert run.after.digest == made.policies[made.current].digest
    assert run.before is not None
    assert run.before.digest == made.policies[0].digest
    assert headline(run) == "33.4% of conversations succeed, up from 3.7%."
    assert "84% of the value an optimal policy gets, from 9%" in subline(run)
    assert state(run) == "4 of 4 cycles have ended."


def test_inputs_come_from_the_manifests(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, ["Promote"])
    improve = made.report().trained[0].artifacts["improve"]
    assert set(improve.inputs) == {"data", "q", "policy"}
    assert improve.inputs["policy"] == made.policies[0].digest


def test_after_a_rejection_the_old_policy_stays_in_service(tmp_path: Path) -> None:
    run = synthetic.full(tmp_path, ["Promote", "Reject"]).report()
    second = run.evaluated[1]
    assert run.deployed(second) is second.evaluation.current  # type: ignore[union-attr]
    assert verdict(second, run.promoted(second)) == "Rejected"


def test_what_was_deployed_next_counts_before_the_gates_word(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    made.warm_start()
    made.cycle(1, "Inconclusive")
    made.current = 1  # a person approved the candidate
    made.cycle(2, "Promote")
    run = made.report()
    assert run.promoted(run.evaluated[0])


@pytest.mark.parametrize("stages", range(5))
def test_a_run_in_progress_says_how_far_it_is(tmp_path: Path, stages: int) -> None:
    made = synthetic.Run(tmp_path)
    made.describe()
    expected = [
        "Nothing has been published yet.",
        "The warm start is done; the first cycle has not published anything yet.",
        "Cycle 1 of 4 is under way: so far it collected.",
        "Cycle 1 of 4 is under way: so far it collected and fitted Q.",
        "Cycle 1 of 4 is under way: so far it collected, fitted Q and improved the policy.",
    ][stages]
    if stages >= 1:
        made.warm_start()
    if stages >= 2:
        data = made.collect(1)
    if stages >= 3:
        q = made.fit_q(1, data)
    if stages >= 4:
        made.improve(1, data, q)
    run = made.report()
    assert state(run) == expected
    assert run.problems == []
    assert run.after is None


def test_an_uninformative_q_ends_the_run_in_words(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    made.warm_start()
    made.fit_q(1, made.collect(1), skill=0.01, informative=False)
    run = made.report()
    assert headline(run) == "Stopped in cycle 1: Q had nothing to teach."
    assert verdict(run.trained[0], False) == "Stopped"
    assert "Q was not informative" in state(run)


def test_a_run_without_a_warm_start_begins_with_cycle_1(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    made.warm_start()
    for info in list(made.store.list("iterations/0000")):
        made.store.delete(info.key)
    made.cycle(1)
    run = made.report()
    assert run.warm_start is None
    assert [cycle.iteration for cycle in run.cycles] == [1]


def test_name_and_settings_are_the_manifests(tmp_path: Path) -> None:
    store = synthetic.Run(tmp_path).store
    run = gather(store, {"metadata": {"name": "shop"}, "spec": {"iterations": {"max": 9}}})
    assert (run.name, run.planned_cycles) == ("shop", 9)
    assert (gather(store).name, gather(store).planned_cycles) == ("Iterative PPO", None)


def test_more_cycles_than_one_block_of_threads(tmp_path: Path) -> None:
    run = synthetic.full(tmp_path, ["Promote"] * 19).report()
    assert [cycle.iteration for cycle in run.cycles] == list(range(20))
    assert [cycle.iteration for cycle in run.cycles if cycle.transcripts] == [1, 17, 18, 19]


def test_altered_and_missing_files_are_left_out_and_named(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, ["Promote", "Promote"])
    whole = made.report()
    evaluation, q = whole.trained[0].artifacts["evaluate"], whole.trained[1].artifacts["fit-q"]
    made.store.put(f"{evaluation.key}/metrics.json", b'{"candidate": "nonsense"}')
    made.store.delete(f"{q.key}/manifest.json")
    run = made.report()
    assert run.trained[0].evaluation is None
    assert run.trained[1].calibration is None
    assert run.trained[1].evaluation is not None
    said = "\n".join(run.problems)
    assert f"{evaluation.key}/metrics.json" in said
    assert "SHA-256" in said
    assert f"{q.key}/manifest.json" in said


def test_a_field_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, [])
    files = {"metrics.json": {"candidate": {"success": {"estimate": "high"}, "value": {}}, "current": {}}}
    made.put(1, "evaluate", "evaluation", files, {})
    run = made.report()
    assert run.trained[0].evaluation is None
    assert any("metrics.json cannot be used (candidate.success.estimate:" in problem for problem in run.problems)


def test_numbers_that_are_not_finite_are_refused_or_left_out(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    rows = '{"kind": "improve", "curves": [{"update": 0, "kl": NaN, "entropy": 1.0, "phase": "x"}]}'
    made.put(1, "improve", "policy", {"training.json": rows}, {})
    made.put(1, "fit-q", "q", {"calibration.json": '{"log_loss": Infinity}'}, {})
    run = made.report()
    assert run.trained[0].training is not None
    assert run.trained[0].training.curves == [{"update": 0, "entropy": 1.0}]
    assert run.trained[0].calibration is None
    assert any("log_loss" in problem for problem in run.problems)


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff"])
def test_a_damaged_ledger_is_named(tmp_path: Path, body: bytes) -> None:
    made = synthetic.full(tmp_path, ["Promote"])
    made.store.put(LEDGER, body + b"\n")
    run = made.report()
    assert any(f"Line 1 of {LEDGER}" in problem for problem in run.problems)
    assert len(run.evaluated) == 1


def test_a_damaged_result_counts_as_not_done(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, ["Promote"])
    made.store.put(result_key(1, "evaluate"), b"{")
    run = made.report()
    assert run.evaluated == []
    assert any(result_key(1, "evaluate") in problem for problem in run.problems)


def test_the_ledger_alone_still_tells_the_decision(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    line = {"iteration": 3, "decision": {"outcome": "Reject", "reason": "worse"}}
    made.store.put(LEDGER, (json.dumps(line) + "\n").encode())
    run = made.report()
    assert [(cycle.iteration, cycle.decision.outcome) for cycle in run.cycles if cycle.decision] == [(3, "Reject")]


def test_collect_s_artifact_is_that_of_the_shard_that_joined_all(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    made.warm_start()
    data = made.collect(1)
    joined = made.store.read(result_key(1, "collect", 0))
    first = json.loads(joined) | {"artifacts": {}}
    made.store.put(result_key(1, "collect", 0), json.dumps(first).encode())
    made.store.put(result_key(1, "collect", 1), joined)
    assert made.report().trained[0].artifacts["collect"].digest == data.digest


def test_a_store_that_does_not_answer_is_no_empty_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = synthetic.full(tmp_path, ["Promote"])

    def down(key: str, limit: int = 0) -> bytes:
        raise TryAgainError("the store is down")

    monkeypatch.setattr(made.store, "read", down)
    with pytest.raises(TryAgainError, match="down"):
        made.report()


def surveyed(folder: Path) -> dict[str, Any]:
    log = folder / "shop.jsonl"
    messages = [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes"}]
    lines = [{"messages": messages, "outcome": n % 2 == 0, "writer": "<b>night</b>" * 20} for n in range(12)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return survey(LogReader(log))


def test_the_account_of_a_log_stands_in_the_report(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path / "run")
    made.warm_start()
    files = {"turns.txt": "turns", LOG: surveyed(tmp_path)}
    made.put(1, "collect", "data", files, {"policy": made.policies[0]})
    run = made.report()
    html = render(run)
    assert run.problems == []
    assert '<section id="log"><h2>The log</h2>' in html
    assert '<a href="#log">' in html
    for words in ("What is worth a look", "11 conversations without an id say the same", "&lt;b&gt;night&lt;/b&gt;"):
        assert words in html
    assert "<b>night" not in html
    assert 'id="log"' not in render(synthetic.full(tmp_path / "other", ["Promote"]).report())


@pytest.mark.parametrize("change", [{"funnel": 3}, {"times": {"first": 1e300, "last": 1}}, {"notices": [3]}])
def test_an_account_that_is_none_is_named_and_hides_nothing_else(tmp_path: Path, change: dict[str, Any]) -> None:
    made = synthetic.Run(tmp_path / "run")
    made.put(1, "collect", "data", {"turns.txt": "turns", LOG: surveyed(tmp_path) | change}, {})
    run = made.report()
    assert run.log is None
    assert ["no account of a log" in problem for problem in run.problems] == [True]
    assert "Provenance" in render(run)


def test_a_long_account_is_cut(tmp_path: Path) -> None:
    many = [{"count": 2, "places": ["line 1", "line 2"], "notice": "x" * 5000}] * 500
    account = LogAccount(surveyed(tmp_path) | {"notices": many})
    assert sum(len(cell) for each in account.sections() for row in each.rows for cell in row) < 30_000
