"""`ippo` as a user meets it: what it prints and how it exits."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.api.reasons import Reason
from ippo_operator.api.status import CanaryStatus, IterationStatus, LiveStatus, RunStatus, Waiting
from ippo_operator.cli.errors import BAD_DATA
from ippo_operator.cli.main import main
from ippo_operator.cli.run.console import Console
from ippo_operator.cli.run.waiting import LiveProgress, live_progress
from ippo_operator.cli.run_view import cluster_view
from ippo_operator.cli.status.iterations import plain
from ippo_operator.local.folder import RunFolder
from ippo_operator.plan.figures import figures_in_words, span_in_words
from ippo_operator.plan.types import Event, JobIntent, ObservedLive
from ippo_trainer.contract.live import ArmReport, CanaryVerdict, LiveReport

from tests.kit.planner_world import Cluster, Outcome, good_result, make_run

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
ONE = next(path for path in EXAMPLES if path.name == "my-environment.yaml")
EVALUATED = {
    "success": 0.28,
    "value": 0.2214,
    "successCurrent": 0.2,
    "valueCurrent": 0.15,
    "exactValue": 0.2212,
    "exactStandardError": 0.001,
    "exactShareOfOptimum": 0.653,
    "exactValueCurrent": 0.149,
    "exactStandardErrorCurrent": 0.002,
    "exactShareOfOptimumCurrent": 0.44,
}


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(str(error.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def finished(path: Path, outcome: Any = None, **spec: Any) -> RunFolder:
    """A folder with a run as the planner leaves it; no stage ran."""

    def evaluated(intent: JobIntent) -> Outcome:
        if intent.spec.stage == "evaluate":
            return good_result(intent.spec, metrics=EVALUATED)
        return good_result(intent.spec)

    folder = RunFolder(path)
    with folder.lock():
        run = folder.begin(make_run(iterations={"max": 2}, **spec))
    world = Cluster(run)
    world.drive(outcome or evaluated)
    assert world.run.status is not None
    folder.write_status(world.run.status)
    return folder


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "validate", "-f", str(path))
    assert code == 0
    assert "is valid" in out
    assert "no effect" not in err


def test_validate_prints_one_line_per_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(ONE.read_text())
    document["spec"]["discount"] = 0.95
    document["spec"]["sed"] = 1
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    code, out, err = call(capsys, "validate", "-f", str(path))
    assert (code, out) == (64, "")
    first, second = err.splitlines()
    assert first == f'{path}: spec.discount: given 0.95, allowed is a decimal in quotes from "0" to "1"; write "0.95"'
    assert second.startswith(f"{path}: spec.sed: unknown field; did you mean seed?")


def test_validate_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(ONE.read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert call(capsys, "validate", "-f", "-")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["validate", "-f", "/no/such.yaml"], "cannot read /no/such.yaml: No such file or directory"),
        (["status", "/no/such"], "/no/such holds no run; start one with: ippo run -f RUN.yaml --out /no/such"),
        (["report", "/no/such"], "/no/such holds no run; start one with: ippo run -f RUN.yaml --out /no/such"),
        (["run"], "the following arguments are required: -f/--file, --out"),
        (["dance"], "invalid choice: 'dance'"),
        (["exact", "--env", "nowhere"], "environment.name 'nowhere' is not known. Use one of sr-funnel, "),
        (["exact", "--env", "sr-funnel", "--discount", "2"], "given 2, allowed is above 0 and at most 1"),
        (["exact", "--env", "sr-funnel", "--discount", "x"], "given x, allowed is above 0 and at most 1"),
        (["exact", "--env", ""], "given a name that is empty"),
        (["exact", "--env", "sr-funnel", "--horizon", "0"], "environment.options.horizon is 0. Give a whole number"),
        (["exact", "--env", "sr-funnel", "--tables", "/no/t.json"], "/no/t.json"),
    ],
)
def test_expected_errors_are_one_line_and_64(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (64, "")
    assert complaint in err
    assert "Traceback" not in err


def test_run_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in {"torch", "trl"} else object())
    code, _, err = call(capsys, "run", "-f", str(ONE), "--out", "unused")
    assert code == 64
    assert err == "torch, trl not installed: this needs the trainer; pip install 'iterative-ppo[trainer]'\n"
    assert not Path("unused").exists()


def test_run_refuses_a_busy_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(tmp_path).lock():
        code, _, err = call(capsys, "run", "-f", str(ONE), "--out", str(tmp_path))
    assert code == 75
    assert "another `ippo run`" in err


def test_run_names_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(ONE.read_text())
    document["metadata"]["name"] = "small"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    finished(tmp_path / "out")
    code, _, err = call(capsys, "run", "-f", str(path), "--out", str(tmp_path / "out"))
    assert code == 64
    assert f"{path}: spec.evaluate.conversations: given" in err
    assert err.splitlines()[-1].endswith("put it back or start a new run")


def uninformative(intent: JobIntent) -> Outcome:
    """Another attempt would come to the same."""
    return good_result(intent.spec, **({"informative": False} if intent.spec.stage == "fit-q" else {}))


def test_a_run_that_stalled_says_why_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    folder = finished(out, uninformative)
    manifest = folder.read().model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(manifest))
    code, _, err = call(capsys, "run", "-f", str(path), "--out", str(out))
    assert code == BAD_DATA
    assert "! QUninformative: Q tells no more than a constant" in err
    code, _, err = call(capsys, "retry", str(out))
    assert (code, err.partition(":")[0]) == (64, "another attempt would come to the same")


def test_status_as_json_has_the_promised_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    code, out, _ = call(capsys, "status", str(tmp_path), "--json")
    assert code == 0
    status = json.loads(out)
    assert status["phase"] == "Succeeded"
    assert [row["iteration"] for row in status["iterations"]] == [1, 2]
    for row in status["iterations"]:
        assert row["decision"] == "Promote"
        assert row["policyDigest"].startswith("sha256:")
        assert row["policyDigest"] == row["candidate"]["policyDigest"]
        assert row["exact"] == {"value": 0.2212, "standardError": 0.001, "shareOfOptimum": 0.653}


def test_a_rejected_candidate_is_not_what_is_deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ippo_trainer.contract.spec import Decision

    def outcome(intent: JobIntent) -> Outcome:
        if intent.spec.stage != "evaluate":
            return good_result(intent.spec)
        decided = "Promote" if intent.spec.iteration == 1 else "Reject"
        return good_result(intent.spec, metrics=EVALUATED, decision=Decision(outcome=decided, reason="so"))

    finished(tmp_path, outcome)
    first, second = json.loads(call(capsys, "status", str(tmp_path), "--json")[1])["iterations"]
    assert second["decision"] == "Reject"
    assert second["policyDigest"] == first["policyDigest"] != second["candidate"]["policyDigest"]
    assert second["exact"] == {"value": 0.149, "standardError": 0.002, "shareOfOptimum": 0.44}
    assert second["candidate"]["exact"]["value"] == 0.2212


def test_status_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished(tmp_path)
    lines = call(capsys, "status", str(tmp_path))[1].splitlines()
    assert lines[0].startswith("small: Succeeded, 2 of 2 iterations done")
    assert lines[-1].split()[:5] == ["2", "Promote", "28.0%", "0.2214", "65.3%"]
    assert folder.read().status is not None


def test_a_run_in_a_folder_stands_where_it_would_in_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path, promotion={"mode": "Manual"})
    status = json.loads(call(capsys, "status", str(tmp_path), "--json")[1])
    recorded = {"metadata": {"name": "small"}, "status": plain(folder.read().status)}
    assert status["phase"] == cluster_view(recorded).phase == "Waiting"
    assert status["reason"] == cluster_view(recorded).reason == "AwaitingApproval"
    lines = call(capsys, "status", str(tmp_path))[1]
    assert "what to do (AwaitingApproval): " in lines


def test_status_before_and_in_between(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        run = folder.begin(make_run())
    assert json.loads(call(capsys, "status", str(tmp_path), "--json")[1])["phase"] == "Pending"
    folder.write_status(Cluster(run).plan().status)
    status = json.loads(call(capsys, "status", str(tmp_path), "--json")[1])
    assert (status["phase"], status["stage"], status["runnerActive"]) == ("Running", "warm-start", False)
    assert "no runner is at work; go on with: ippo run" in call(capsys, "status", str(tmp_path))[1]


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "examples:" in out
    assert "exit codes:" in out
    for command in ("run", "validate", "status", "report", "exact"):
        code, out, _ = call(capsys, command, "--help")
        assert code == 0
        assert f"usage: ippo {command}" in out


@pytest.mark.parametrize(
    ("horizon", "discount", "expected"),
    [
        (6, "0.95", {"optimum": (0.3386, 0.398), "base": (0.0312, 0.037), "greedy-1": (0.2510, 0.287)}),
        (6, "1", {"optimum": (0.398, 0.398)}),
    ],
)
def test_exact_prints_the_ladder(
    horizon: int, discount: str, expected: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(
        capsys, "exact", "--env", "sr-funnel", "--horizon", str(horizon), "--discount", discount, "--json"
    )
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)["policies"]}
    for name, (value, success) in expected.items():
        assert rows[name]["value"] == pytest.approx(value, abs=1e-3)
        assert rows[name]["success"] == pytest.approx(success, abs=1e-3)
    lines = call(capsys, "exact", "--env", "sr-funnel", "--horizon", str(horizon), "--discount", discount)[1]
    assert lines.splitlines()[3].split()[0] == "optimum"


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job_with_log(folder: Path, line: str) -> Path:
    (folder / "log.txt").write_text(f"2026-01-31T12:00:00Z INFO {line}\n")
    return folder


def test_the_console_draws_a_bar_on_a_terminal(tmp_path: Path) -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(out, terminal=True, clock=clock)
    job = job_with_log(tmp_path, "collecting: 30/60 conversations, 5/s, 6 s left")
    console.tick(RunStatus(iteration=2, stage="collect"), job)
    assert "iteration 2 collect:  50% " in out.getvalue()
    assert "█" * 12 + "░" * 12 in out.getvalue()
    assert "\n" not in out.getvalue()
    console.event(Event("Warning", Reason.TRY_AGAIN, "the disk is full"))
    assert out.getvalue().endswith("! TryAgain: the disk is full\n")


def test_the_console_writes_a_line_per_ten_seconds_elsewhere(tmp_path: Path) -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(out, terminal=False, clock=clock)
    for second in range(31):
        clock.now = float(second)
        job = job_with_log(tmp_path, f"collecting: {second}/60 conversations, 1/s, {60 - second} s left")
        console.tick(RunStatus(iteration=2, stage="collect"), job)
    lines = out.getvalue().splitlines()
    assert [line.split(": ")[1].split("/")[0] for line in lines] == ["10", "20", "30"]
    assert "\x1b" not in out.getvalue()


def test_words_for_figures_and_spans() -> None:
    assert [span_in_words(s) for s in (0.4, 59, 61, 3600, 7830)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 10 min",
    ]
    world = Cluster(make_run(iterations={"max": 1}))
    world.drive()
    evaluated = next(i.spec for i in world.created if i.spec.stage == "evaluate")
    assert figures_in_words(good_result(evaluated, metrics=EVALUATED)) == (
        "success 28.0%, value 0.2214, 65.3% of the optimum"
    )
    # An estimate may be a little below zero.
    assert figures_in_words(good_result(evaluated, metrics={"kl": -0.001})) == "KL 0.00"


def test_warnings_of_stages_are_in_the_status_newest_first_and_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(intent: JobIntent) -> Outcome:
        return good_result(intent.spec, warnings=(f"92 % of {intent.spec.iteration} unended",))

    finished(tmp_path / "run", warned)
    out = call(capsys, "status", str(tmp_path / "run"))[1]
    lines = out[out.index("warnings:") :].splitlines()
    assert lines[1] == "  iteration 2 collect: 92 % of 2 unended"
    assert lines[7:8] == ["  and 3 more: --json has them all"]
    document = json.loads(call(capsys, "status", str(tmp_path / "run"), "--json")[1])["warnings"]
    assert len(document) == 9
    assert document[-1] == "iteration 0 warm-start: 92 % of 0 unended"


_DIGEST = "sha256:" + "a" * 64
_WAITS = RunStatus(iteration=1, live=LiveStatus(policy=_DIGEST, wanted_conversations=1000, wanted_outcomes=20))


def _counted(conversations: int, outcomes: int, digest: str = _DIGEST) -> ObservedLive:
    active = ArmReport(digest=digest)
    return ObservedLive(LiveReport(time=1.0, active=active, usable=conversations, usable_outcomes=outcomes))


def test_the_console_shows_what_a_run_waits_for_from_its_customers() -> None:
    out, clock = io.StringIO(), iter(range(0, 10_000, 11))
    console = Console(out, terminal=False, clock=lambda: next(clock))
    console.tick(_WAITS, None, _counted(700, 15))
    console.tick(_WAITS, None, _counted(700, 15))
    assert out.getvalue().count("\n") == 1
    assert "iteration 1 collects: 700/1000 conversations, 15/20 with the outcome" in out.getvalue()


def test_the_console_shows_an_a_b_test() -> None:
    now, candidate = datetime(2026, 1, 31, tzinfo=UTC), ArmReport(digest=_DIGEST, conversations=50, outcomes=9)
    row = IterationStatus(iteration=1, started_at=now, canary=CanaryStatus(asked_at=now, started_at=now))
    verdict = CanaryVerdict(digest=_DIGEST, since=0.0, lift=0.1, low=-0.1, high=0.3)
    report = LiveReport(time=1.0, active=candidate, candidate=candidate, verdict=verdict)
    out, status = io.StringIO(), _WAITS.model_copy(update={"iterations": (row,)})
    Console(out, terminal=True).tick(status, None, ObservedLive(report))
    Console(out, terminal=True).tick(status, None, ObservedLive())
    assert "A/B test of iteration 1: candidate 9/50, current 0/0, lift +0.100 (-0." in out.getvalue()
    assert "the gateway has not counted yet" in out.getvalue()


@pytest.mark.parametrize(
    ("conversations", "outcomes", "earlier", "share"),
    [(700, 15, (0, 0), 0.7), (1200, 5, (0, 0), 0.25), (900, 30, (800, 20), 0.5), (2000, 400, (0, 0), 1.0)],
)
def test_the_share_of_what_is_waited_for_is_that_of_what_is_scarcest(
    conversations: int, outcomes: int, earlier: tuple[int, int], share: float
) -> None:
    fields = {"earlier_conversations": earlier[0], "earlier_outcomes": earlier[1]}
    record = LiveStatus(policy=_DIGEST, wanted_conversations=1000, wanted_outcomes=20 + 20 * bool(earlier[1]), **fields)
    progress = live_progress(RunStatus(iteration=1, live=record), _counted(conversations, outcomes))
    assert progress is not None
    assert progress.share == share


def test_what_the_gateway_says_of_another_policy_does_not_count() -> None:
    progress = live_progress(_WAITS, _counted(700, 15, "sha256:" + "b" * 64))
    assert progress is not None
    assert (progress.share, progress.count) == (0.0, "0/1000 conversations, 0/20 with the outcome")


def test_what_keeps_the_gateway_away_is_shown_in_place_of_figures() -> None:
    away = ObservedLive(trouble=Waiting(reason=Reason.GATEWAY_UNREACHABLE, message="it ended with 1"))
    assert live_progress(_WAITS, away) == LiveProgress("iteration 1 collects", "it ended with 1")


def test_nothing_is_waited_for_once_there_is_enough() -> None:
    enough = _WAITS.live.model_copy(update={"until": 1})  # type: ignore[union-attr]
    assert live_progress(RunStatus(iteration=1, live=enough), None) is None
    assert live_progress(RunStatus(iteration=1), None) is None
