"""`ippo logs`, `retry`, `serve` and `report` of a run in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cli.logs import folder as folder_logs
from ippo_operator.cli.logs.folder import FolderFollower
from ippo_operator.cli.main import main
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.runner import Runner, Signals

from tests.kit.planner_world import make_run
from tests.kit.toy_stages import toy_launcher

ROOT = Path(__file__).parents[4]
RULES = "fit-q=65 improve=75-once"


class Silent:
    """Is told, and says nothing."""

    def event(self, event: Any) -> None: ...

    def tick(self, status: Any, job: Path | None, live: Any) -> None: ...

    def listening(self, url: str) -> None: ...

    def stopping(self) -> None: ...


def drive(folder: RunFolder) -> None:
    """Runs stand-in stages until the run is at rest."""
    run = make_run(
        policy={"base": "tiny:d1", "systemPrompt": RULES}, iterations={"max": 1}, retries={"backoffSeconds": 0}
    )
    with folder.lock(), Signals() as signals:
        Runner(folder, Silent(), signals, toy_launcher(), slots=2, interval=0.05).run(run)


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose fit-q found bad data."""
    monkeypatch.syspath_prepend(str(ROOT))
    folder = RunFolder(tmp_path / "run")
    drive(folder)
    return folder


@pytest.fixture
def ended(failed: RunFolder) -> RunFolder:
    """The same, mended and gone on with."""
    (failed.path / "artifacts" / "mended").touch()
    drive(failed)
    return failed


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


LINE = "2026-01-31T12:00:00Z INFO {}: 5/10 steps, 1/s, 5 s left\n"


@pytest.mark.parametrize(
    ("options", "head", "stage"),
    [
        ((), "evaluate of iteration 1, attempt 1", "evaluate"),
        (("--previous",), "fit-q of iteration 1, attempt 1", "fit-q"),
        (("--stage", "fit-q"), "fit-q of iteration 1, attempt 2", "fit-q"),
        (("--stage", "fit-q", "--attempt", "1"), "fit-q of iteration 1, attempt 1", "fit-q"),
        (("--iteration", "0"), "warm-start of iteration 0, attempt 1", "warm-start"),
        (("--stage", "collect", "--shard", "1"), "collect of iteration 1, attempt 1", "collect"),
        (("--stage", "collect", "--tail", "1"), "collect of iteration 1, attempt 1", "collect"),
    ],
)
def test_the_log_that_is_asked_for(
    ended: RunFolder, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], head: str, stage: str
) -> None:
    code, out, err = call(capsys, "logs", ended.path, *options)
    assert (code, out) == (0, LINE.format(stage))
    assert err.startswith(f"--- {head}, {ended.jobs}")


def test_logs_that_are_not_there_are_named(
    ended: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = call(capsys, "logs", ended.path, "--stage", "collect", "--shard", "7")
    assert (code, "has no log of shard 7 below" in err) == (75, True)
    code, _, err = call(capsys, "logs", ended.path, "--iteration", "3")
    assert (code, err) == (64, f"{ended.path} has run no such stage; it is at evaluate of iteration 1, attempt 1\n")
    code, _, err = call(capsys, "logs", f"{tmp_path}/none")
    assert (code, "holds no run" in err) == (64, True)


def test_tail_counts_lines_with_and_without_a_last_break(ended: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    [log] = ended.jobs.glob("*-evaluate-a1-*/log.txt")
    for text in ("1\n2\n3\n", "1\n2\n3"):
        log.write_text(text)
        assert call(capsys, "logs", ended.path, "--tail", "2")[1] == "2\n3\n"
        assert call(capsys, "logs", ended.path, "--tail", "2", "--follow")[1] == "2\n3\n"
        assert call(capsys, "logs", ended.path, "--tail", "9", "--follow")[1] == "1\n2\n3\n"


def test_follow_goes_from_stage_to_stage_while_a_runner_is_at_work(
    ended: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is played again: its attempts appear one by one, and a line comes in two parts."""
    jobs = sorted(folder_logs._jobs(ended).items())
    hidden = ended.path / "hidden"
    hidden.mkdir()
    for _, job in jobs[-2:]:
        job.rename(hidden / job.name)
    (jobs[-3][1] / "exit.json").rename(hidden / "exit.json")
    status = ended.read().status
    assert status is not None
    monkeypatch.setattr(folder_logs, "latest", lambda *_: jobs[-3][0])
    log = jobs[-3][1] / "log.txt"
    log.write_text("one\ntw")

    def half() -> None:
        log.write_text("one\ntwo\n")
        (hidden / "exit.json").rename(jobs[-3][1] / "exit.json")

    def next_stage() -> None:
        for _, job in jobs[-2:]:
            (hidden / job.name).rename(job)

    steps = iter([half, next_stage])
    busy = iter([True, True, True, False])
    monkeypatch.setattr(ended, "busy", lambda: next(busy))
    code = FolderFollower(ended, sleep=lambda _: next(steps)()).follow()
    captured = capsys.readouterr()
    assert code == 0
    assert captured.out == "one\ntwo\n" + "".join(LINE.format(attempt.stage) for attempt, _ in jobs[-2:])
    assert captured.err.splitlines()[-1] == f"--- {ended.path}: 1 of 1 iterations are done"


def test_follow_ends_with_1_where_the_run_stalled(failed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "logs", failed.path, "-f")
    assert code == 1
    assert "the stage says 65" in err


def test_retry_goes_on_with_the_folders_own_manifest(
    failed: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("ippo_operator.cli.decide.folder.drive", lambda *arguments: asked.append(arguments) or 0)
    assert call(capsys, "retry", failed.path)[0] == 0
    [(folder, manifest, _)] = asked
    assert (folder.path, manifest.spec) == (failed.path, failed.read().spec)
    (failed.path / "artifacts" / "mended").touch()
    drive(failed)
    code, _, err = call(capsys, "retry", failed.path)
    assert code == 64
    assert err == f"{failed.path} has no stage that stalled (Succeeded: 1 of 1 iterations are done)\n"


def test_serve_asks_for_the_policy_of_the_run_or_of_an_iteration(
    ended: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it answers is tested with a real run, in tests/integration/test_local_run.py."""
    fetched: list[str] = []
    served: list[list[str]] = []
    monkeypatch.setattr("ippo_trainer.store.artifact.fetch", lambda _store, ref, *_: fetched.append(ref.digest))
    monkeypatch.setattr("ippo_trainer.serve.cli.main", lambda arguments: served.append(arguments) or 0)
    monkeypatch.setenv("IPPO_POLICY_DIGEST", "")
    status = ended.read().status
    assert status is not None
    assert status.policy is not None
    for options, digest in (((), status.policy.artifact.digest), (("--iteration", "0"), status.start_policy.digest)):
        assert call(capsys, "serve", ended.path, *options, "--port", "0")[0] == 0
        assert fetched[-1] == digest
    assert {"--port=0", "--engine=Transformers", "--name=small", "--max-tokens=16"} <= set(served[-1])
    code, _, err = call(capsys, "serve", ended.path, "--iteration", "7")
    assert (code, err) == (64, "iteration 7 has made no policy; those that have: 0, 1\n")


def test_the_report_of_a_failed_run_says_so_first(failed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "report", failed.path)[0] == 0
    page = (failed.path / "report.html").read_text()
    first = page[: page.index("Progress, cycle by cycle")]
    for text in (
        "Failed: fit-q of iteration 1, attempt 1",
        "InvalidData",
        "the stage says 65",
        "INFO fit-q: 5/10 steps",
        f"ippo logs {failed.path} --previous",
        "What to do:",
        "The run failed before there was anything to compare.",
    ):
        assert text in first


def test_the_report_of_a_run_that_ended_well_has_no_such_notice(
    ended: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "report", ended.path)[0] == 0
    assert "What to do:" not in (ended.path / "report.html").read_text()


def _a_folder(log: Path) -> None:
    log.unlink()
    log.mkdir()


def _a_link_to_nothing(log: Path) -> None:
    log.unlink()
    log.symlink_to(log.parent / "nowhere")


@pytest.mark.parametrize("broken", [_a_folder, _a_link_to_nothing])
def test_a_log_that_cannot_be_read_is_one_line_and_holds_up_nothing_else(
    failed: RunFolder, capsys: pytest.CaptureFixture[str], broken: Callable[[Path], None]
) -> None:
    logs = sorted(failed.jobs.glob("*/log*.txt"))
    for log in logs:
        broken(log)
    for arguments in (["logs"], ["logs", "--tail", "1"], ["logs", "--follow"]):
        code, out, err = call(capsys, arguments[0], failed.path, *arguments[1:])
        *_, last = err.splitlines()
        assert (code, out) == (75, "")
        assert last.startswith(f"cannot read or write {failed.jobs}")
    for verb in ("status", "report"):
        assert call(capsys, verb, failed.path)[0] == 0


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "logs", "report", "serve", "retry"):
        code, _, err = call(capsys, verb, tmp_path / ("x" * 300))
        assert code in {64, 75}
        assert "File name too long" in err
        assert err.count("\n") == 1


def test_an_end_that_nests_without_end_leaves_its_log_out(
    failed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for end in failed.jobs.glob("*/exit.json"):
        end.write_text("[" * 100_000)
    assert call(capsys, "report", failed.path)[0] == 0
