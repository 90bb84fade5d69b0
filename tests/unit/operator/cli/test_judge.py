"""`ippo judge`: blind, in random order, resumable; and answers for a run in a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.judge import session
from ippo_operator.cli.judge.session import Evaluated, judge
from ippo_operator.cli.judge.votes import Vote, append_vote, order, read_votes, tally, verdict_of
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.runner import Runner, Signals
from ippo_trainer.contract.judgement import Judgement
from ippo_trainer.evaluation.comparisons import Comparisons, Exchange, PairOfSuggestions
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import publish

from tests.kit.ippo_command import Ippo
from tests.kit.planner_world import make_run
from tests.kit.toy_stages import toy_launcher
from tests.unit.operator.cli.test_folder import ROOT, Silent

DIGEST = "sha256:" + "7" * 64


def pairs(count: int) -> list[PairOfSuggestions]:
    return [
        PairOfSuggestions(
            conversation=f"c{number}",
            turn=1,
            history=[Exchange(customer="hello", sent="hi")],
            message="price?",
            candidate=f"new {number}",
            current=None if number % 3 == 0 else f"old {number}",
        )
        for number in range(count)
    ]


def subject(count: int) -> Evaluated:
    return Evaluated(1, DIGEST, Comparisons(states=3 * count, identical=count, pairs=pairs(count)))


class Human:
    """Prefers the candidate, whose texts begin with `new`, in the first so many states."""

    def __init__(self, capsys: pytest.CaptureFixture[str], likes: int, answers: int = 10**9) -> None:
        self.capsys, self.likes, self.answers = capsys, likes, answers
        self.seen: list[str] = []

    def __call__(self, prompt: str) -> str:
        if not self.answers:
            return "q"
        self.answers -= 1
        text = self.capsys.readouterr().out
        self.seen.append(text)
        letters = {line[0]: line[10:] for line in text.splitlines() if line.startswith(("A:", "B:"))}
        new = next(letter for letter, said in letters.items() if said.startswith("new"))
        other = "AB".replace(new, "")
        return (new if len(self.seen) <= self.likes else other).lower()


class Arguments:
    """Of the command."""

    def __init__(self, **fields: Any) -> None:
        self.judge, self.votes = "anna", None
        self.__dict__.update(fields)


def test_a_session_counts_what_was_preferred_whatever_the_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    human = Human(capsys, 7)
    verdict = judge(Arguments(), subject(10), tmp_path / "votes.jsonl", human)  # type: ignore[arg-type]
    assert verdict == Judgement(iteration=1, candidate=7, current=3, same=0)
    for text in human.seen:
        assert "candidate" not in text.split("---")[-1]
        assert "current" not in text.split("---")[-1]
        assert "customer: price?" in text
        assert "we:       hi" in text


def test_both_orders_come_and_stay_the_same() -> None:
    orders = [order(DIGEST, "anna", f"c{number}/0") for number in range(400)]
    assert 150 < orders.count(("candidate", "current")) < 250
    assert orders == [order(DIGEST, "anna", f"c{number}/0") for number in range(400)]
    assert orders != [order(DIGEST, "ben", f"c{number}/0") for number in range(400)]


def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "votes.jsonl"
    first = judge(Arguments(), subject(10), place, Human(capsys, 10, answers=4))  # type: ignore[arg-type]
    assert (first.candidate, first.current) == (4, 0)
    human = Human(capsys, 0)
    second = judge(Arguments(), subject(10), place, human)  # type: ignore[arg-type]
    assert (second.candidate, second.current, len(human.seen)) == (4, 6, 6)


def test_an_answer_that_says_nothing_is_asked_again(tmp_path: Path) -> None:
    answers = iter(["", "x", "S", "k", "q"])
    verdict = judge(Arguments(), subject(3), tmp_path / "votes.jsonl", lambda _: next(answers))  # type: ignore[arg-type]
    assert verdict == Judgement(iteration=1, candidate=0, current=0, same=1)
    assert [vote.verdict for vote in read_votes(tmp_path / "votes.jsonl", DIGEST)] == ["same", "skip"]


def test_votes_of_several_people_count_once_for_a_state() -> None:
    states = ["c0/1", "c1/1", "c2/1", "c3/1"]
    said = [
        *(Vote("a", "c0/1", "candidate"), Vote("b", "c0/1", "candidate"), Vote("c", "c0/1", "current")),
        *(Vote("a", "c1/1", "candidate"), Vote("b", "c1/1", "current")),
        *(Vote("a", "c2/1", "candidate"), Vote("a", "c2/1", "current")),
        Vote("a", "c3/1", "skip"),
    ]
    assert tally(1, said, states) == Judgement(iteration=1, candidate=1, current=1, same=1)
    with pytest.raises(CommandError, match="no state"):
        tally(1, [Vote("a", "c9/1", "same")], states)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 is no vote"),
        (json.dumps({"judge": "a", "state": "c", "verdict": "best", "evaluation": DIGEST}), "allowed are candidate"),
        (json.dumps({"judge": "a", "state": "c", "verdict": "same", "evaluation": "x"}), "another candidate"),
    ],
)
def test_files_that_are_no_votes(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "v").write_text(line)
    with pytest.raises(CommandError, match=words):
        read_votes(tmp_path / "v", DIGEST)


def test_texts_of_customers_do_not_reach_the_terminal_as_they_are() -> None:
    pair = pairs(1)[0].model_copy(update={"message": "a\x1b[2Jb\nc", "candidate": "\x07"})
    lines = session._shown(pair, ("candidate", "current"), "1 of 1")
    assert not any("\x1b" in line or "\x07" in line for line in lines)
    assert verdict_of(" A ", ("current", "candidate")) == "current"


@pytest.mark.parametrize(("wins", "losses"), [(0, 5), (5, 0), (31, 12), (1, 1)])
def test_the_interval_is_wilsons(wins: int, losses: int) -> None:
    """Its bounds are the shares whose own normal deviation the votes are at."""
    preference = Judgement(iteration=1, candidate=wins, current=losses, same=0).preference()
    assert preference is not None
    share, low, high = preference
    count = wins + losses
    assert share == wins / count
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(1.959963984540054 * (bound * (1 - bound) / count) ** 0.5)
    assert Judgement(iteration=1, candidate=0, current=0, same=3).preference() is None


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run in a folder whose candidate waits."""
    monkeypatch.syspath_prepend(str(ROOT))
    folder = RunFolder(tmp_path / "run")
    run = make_run(iterations={"max": 1}, promotion={"mode": "Manual"}, retries={"backoffSeconds": 0})
    with folder.lock(), Signals() as signals:
        Runner(folder, Silent(), signals, toy_launcher(), slots=2, interval=0.05).run(run)
    return folder


@pytest.mark.parametrize(("verb", "promoted"), [("approve", True), ("reject", False)])
def test_an_answer_in_a_folder_goes_on(
    ippo: Ippo, waiting: RunFolder, verb: str, promoted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ippo_operator.cli.run.folder.write_report_of", lambda *_: "r.html")
    answer = ippo(verb, f"{waiting.path}/")
    assert answer.code == 0, answer.err
    assert f"the candidate of iteration 1 is {'approved' if promoted else 'rejected'}" in answer.out
    status = waiting.read().status
    assert status is not None
    assert status.iterations[-1].promoted is promoted
    again = ippo(verb, f"{waiting.path}/")
    assert (again.code, "has ended" in again.err) == (64, True)


def test_an_answer_waits_for_a_runner(ippo: Ippo, waiting: RunFolder) -> None:
    with waiting.lock():
        answer = ippo("approve", f"{waiting.path}/")
    assert (answer.code, "is at work" in answer.err) == (75, True)


def test_what_was_answered_stays_where_the_manifest_is_silent(waiting: RunFolder) -> None:
    with waiting.lock():
        run = waiting.read()
        judged = run.spec.promotion.model_copy(
            update={"judgement": Judgement(iteration=1, candidate=3, current=1, same=0)}
        )
        waiting.change(run, run.spec.model_copy(update={"promotion": judged.model_copy(update={"reject": 1})}))
        silent = make_run(iterations={"max": 1}, promotion={"mode": "Manual"}, retries={"backoffSeconds": 0})
        kept = waiting.begin(silent).spec.promotion
        assert (kept.reject, kept.judgement) == (1, judged.judgement)
        says = make_run(
            iterations={"max": 1}, promotion={"mode": "Manual", "approve": 1}, retries={"backoffSeconds": 0}
        )
        assert waiting.begin(says).spec.promotion.reject is None


def test_the_count_is_shown_beside_the_gate(ippo: Ippo, waiting: RunFolder, tmp_path: Path) -> None:
    """From the states in the store to the message of the run that waits."""
    content = tmp_path / "evaluation"
    content.mkdir()
    (content / "comparisons.json").write_text(subject(6).comparisons.model_dump_json())
    run = waiting.read()
    reference = publish(open_store(waiting.store(run)), "iterations/0001/evaluation", content, "evaluation")
    assert run.status is not None
    row = run.status.iterations[-1]
    stages = tuple(
        each.model_copy(update={"artifact": reference}) if each.stage == "evaluate" else each for each in row.stages
    )
    rows = (*run.status.iterations[:-1], row.model_copy(update={"stages": stages}))
    waiting.write_status(run.status.model_copy(update={"iterations": rows}))
    votes = tmp_path / "votes.jsonl"
    for number, verdict in enumerate(("candidate", "candidate", "current", "same", "skip")):
        append_vote(votes, Vote("anna", f"c{number}/1", verdict), reference.digest)  # type: ignore[arg-type]
    answer = ippo("judge", f"{waiting.path}/", "--votes", str(votes))
    assert answer.code == 0, answer.err
    assert "the candidate's suggestion in 2 of 3 states (67%, 95% interval 21% to 94%), 1 the same" in answer.out
    assert "Judged: people who saw both" in ippo("status", f"{waiting.path}/").out
    missing = ippo("judge", f"{waiting.path}/", "--votes", "nowhere")
    assert (missing.code, "there is no file nowhere" in missing.err) == (64, True)
    nobody = ippo("judge", f"{waiting.path}/")
    assert (nobody.code, "no terminal" in nobody.err) == (64, True)


@pytest.mark.parametrize("name", ["a/b", "../a", "", "a\n", "x" * 65, "\x1b[2J", ".a"])
def test_a_judge_whose_name_is_no_part_of_a_files(ippo: Ippo, waiting: RunFolder, name: str) -> None:
    """Else the first vote is asked for, and cannot be kept."""
    answer = ippo("judge", str(waiting.path), "--judge", name)
    assert answer.code == 64
    assert "--judge" in answer.err
