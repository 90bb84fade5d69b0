"""The local runner with stand-in stages: real processes, real signals, real files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.api.problems import ManifestError
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.local.folder import FolderError, FolderInUseError, RunFolder
from ippo_operator.local.runner import Runner, Signals
from ippo_operator.local.watch import read_progress
from ippo_operator.plan.phase import Phase
from ippo_operator.plan.types import Event, ObservedLive

from tests.kit.planner_world import make_run
from tests.kit.toy_stages import toy_launcher
from tests.kit.waiting import until

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


class Listener:
    """Remembers events; presses Ctrl-C once a stage hangs, if it is told to."""

    def __init__(self, marker: Path | None = None) -> None:
        self.events: list[Event] = []
        self.stops = 0
        self._marker = marker

    def event(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, status: RunStatus, job: Path | None, live: ObservedLive | None) -> None:
        if self._marker is not None and self._marker.exists():
            self._marker.unlink()
            os.kill(os.getpid(), signal.SIGINT)

    def listening(self, url: str) -> None:
        pass

    def stopping(self) -> None:
        self.stops += 1

    def reasons(self) -> list[str]:
        return [str(event.reason) for event in self.events]


def small(rules: str = "", **spec: Any) -> IterativePPORun:
    spec = {"iterations": {"max": 1}, "retries": {"backoffSeconds": 0}} | spec
    return make_run(policy={"base": "tiny:d1", "systemPrompt": rules}, **spec)


def drive(
    path: Path, run: IterativePPORun, interrupt: bool = False, slots: int = 2
) -> tuple[Phase | None, Listener, RunFolder]:
    folder = RunFolder(path)
    with folder.lock(), Signals() as signals:
        listener = Listener(path / "artifacts" / "hanging" if interrupt else None)
        runner = Runner(folder, listener, signals, toy_launcher(), slots=slots, interval=0.05)
        return runner.run(run), listener, folder


def calls(path: Path) -> list[str]:
    file = path / "artifacts" / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []


def failure_of(folder: RunFolder) -> str:
    status = folder.read().status
    assert status is not None
    assert status.last_failure is not None
    return status.last_failure.message


def test_a_run_ends_and_leaves_what_the_layout_says(tmp_path: Path) -> None:
    stands, listener, folder = drive(tmp_path / "out", small())
    assert stands is not None
    assert stands.name == "Succeeded"
    assert listener.reasons()[-2:] == ["Promoted", "Completed"]
    assert sorted(calls(folder.path)) == sorted(
        ["0 warm-start 1 None", "1 collect 1 0", "1 collect 1 1"]
        + [f"1 {stage} 1 None" for stage in ("fit-q", "improve", "evaluate")]
    )
    jobs = {path.name.rsplit("-", 2)[0]: path for path in folder.jobs.iterdir()}
    assert sorted(jobs) == [
        "small-i0-warm-start",
        "small-i1-collect",
        "small-i1-evaluate",
        "small-i1-fit-q",
        "small-i1-improve",
    ]
    assert sorted(path.name for path in jobs["small-i1-fit-q"].iterdir()) == [
        "exit.json",
        "job.json",
        "log.txt",
        "spec.json",
        "termination.json",
    ]
    assert {"log-0.txt", "log-1.txt", "termination-0.json"} <= {
        path.name for path in jobs["small-i1-collect"].iterdir()
    }
    assert json.loads((jobs["small-i1-collect"] / "exit.json").read_text())["shards"] == {"0": 0, "1": 0}
    progress = read_progress(jobs["small-i1-collect"])
    assert progress is not None
    assert (progress.done, progress.total, progress.share) == (10, 20, 0.5)


def test_a_run_that_is_done_does_nothing_again(tmp_path: Path) -> None:
    drive(tmp_path, small())
    before = calls(tmp_path)
    stands, listener, _ = drive(tmp_path, small())
    assert stands is not None
    assert stands.name == "Succeeded"
    assert listener.events == []
    assert calls(tmp_path) == before


def test_raising_the_iterations_goes_on(tmp_path: Path) -> None:
    drive(tmp_path, small())
    stands, _, folder = drive(tmp_path, small(iterations={"max": 2}))
    assert stands is not None
    assert stands.message == "2 of 2 iterations are done"
    assert folder.read().metadata.generation == 2
    assert [line for line in calls(tmp_path) if line.startswith("1 ")] == [
        line for line in calls(tmp_path)[1:6] if line.startswith("1 ")
    ]


def test_a_changed_manifest_is_refused_by_field(tmp_path: Path) -> None:
    drive(tmp_path, small())
    with pytest.raises(ManifestError, match=r"^spec.seed: given 3 instead of 0; this field is immutable"):
        drive(tmp_path, small(seed=3))
    other = small()
    renamed = other.model_copy(update={"metadata": other.metadata.model_copy(update={"name": "other"})})
    with pytest.raises(ManifestError, match=r"^metadata.name: given other, but .* holds the run small; give another"):
        drive(tmp_path, renamed)


def test_failures_are_tried_again_or_not_by_their_exit_code(tmp_path: Path) -> None:
    stands, listener, _ = drive(tmp_path / "again", small("fit-q=75-once improve=1-once"))
    assert stands is not None
    assert stands.name == "Succeeded"
    assert [r for r in listener.reasons() if r in {"TryAgain", "UserCodeFailed"}] == ["TryAgain", "UserCodeFailed"]

    stands, _, folder = drive(tmp_path / "never", small("fit-q=65"))
    assert stands is not None
    assert (stands.name, stands.reason) == ("Failed", "InvalidData")
    assert failure_of(folder) == "iteration 1 fit-q: the stage says 65"
    assert calls(folder.path)[-1] == "1 fit-q 1 None"


@pytest.mark.parametrize("behaviour", ["64", "65", "75", "1", "silent", "kill"])
def test_the_same_command_tries_a_stage_that_stalled_once_more(tmp_path: Path, behaviour: str) -> None:
    """Whoever starts it again has mended the cause, such as a log; whatever the stage had failed of."""
    run = small(f"fit-q={behaviour}", retries={"backoffSeconds": 0, "crashes": 0, "tryAgain": 0})
    for attempt in range(1, 4):
        stands, _, _ = drive(tmp_path / "out", run)
        assert stands is not None
        assert stands.name == "Failed"
        assert [line for line in calls(tmp_path / "out") if "fit-q" in line][-1] == f"1 fit-q {attempt} None"
    (tmp_path / "out" / "artifacts" / "mended").touch()
    stands, _, _ = drive(tmp_path / "out", run)
    assert stands is not None
    assert stands.name == "Succeeded"
    assert calls(tmp_path / "out").count("1 collect 1 0") == 1


def test_the_manifest_may_ask_for_another_attempt_too(tmp_path: Path) -> None:
    drive(tmp_path / "out", small("fit-q=65"))
    drive(tmp_path / "out", small("fit-q=65", retries={"backoffSeconds": 0, "requested": 5}))
    assert calls(tmp_path / "out")[-1] == "1 fit-q 2 None"
    drive(tmp_path / "out", small("fit-q=65", retries={"backoffSeconds": 0, "requested": 5}))
    assert calls(tmp_path / "out")[-1] == "1 fit-q 3 None"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("kill", "iteration 1 fit-q: ended by SIGKILL; the machine may be out of memory, see "),
        ("print", "iteration 1 fit-q: exit code 1: Error: something odd"),
        ("silent", "small-i1-fit-q-a1-"),
    ],
)
def test_a_stage_that_says_nothing_is_described(tmp_path: Path, behaviour: str, said: str) -> None:
    stands, _, folder = drive(tmp_path, small(f"fit-q={behaviour}", retries={"crashes": 0}))
    assert stands is not None
    assert stands.reason == "BudgetExhausted"
    assert failure_of(folder).startswith(said)


def test_one_failed_shard_stops_the_others(tmp_path: Path) -> None:
    run = small("collect=64")
    stands, _, folder = drive(tmp_path, run, slots=1)
    assert stands is not None
    assert stands.reason == "InvalidSpec"
    # with one slot the second shard waits, and then never starts
    assert [line for line in calls(tmp_path) if "collect" in line] == ["1 collect 1 0"]
    assert failure_of(folder) == "iteration 1 collect: the stage says 64"


def test_ctrl_c_stops_the_stage_and_the_same_command_resumes(tmp_path: Path) -> None:
    stands, listener, folder = drive(tmp_path, small("improve=hang"), interrupt=True)
    assert stands is None
    assert listener.stops == 1
    [job] = folder.jobs.glob("small-i1-improve-a1-*")
    assert json.loads((job / "exit.json").read_text())["exitCode"] == 143
    # the stage that was stopped is the only one that starts again
    status = folder.read().status
    assert status is not None
    assert status.stage == "improve"
    before = calls(tmp_path)
    stands, _, _ = drive(tmp_path, small("improve=hang"), interrupt=True)
    assert stands is None
    assert calls(tmp_path) == [*before, "1 improve 2 None"]


def test_a_run_that_is_suspended_rests_and_resumes(tmp_path: Path) -> None:
    stands, _, _ = drive(tmp_path, small(suspend=True))
    assert stands is not None
    assert stands.name == "Suspended"
    assert calls(tmp_path) == []
    stands, listener, _ = drive(tmp_path, small())
    assert stands is not None
    assert stands.name == "Succeeded"
    assert "Resumed" in listener.reasons()


def test_a_second_runner_is_kept_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.busy()
    with folder.lock():
        assert folder.busy()
        with pytest.raises(FolderInUseError, match=rf"another `ippo run` \(process {os.getpid()}\) is at work in"):
            RunFolder(tmp_path).lock().__enter__()
    assert not folder.busy()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FolderError, match=r"is not empty and holds no run \(thesis.tex, …\); give another --out"):
        RunFolder(tmp_path).lock().__enter__()
    with pytest.raises(FolderError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex").lock().__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_artifacts_are_in_the_folder_or_in_the_runs_own_prefix_of_a_bucket(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.store(make_run()).directory == str(tmp_path / "artifacts")
    location = folder.store(make_run(artifacts={"s3": {"bucket": "models", "prefix": "team/"}})).s3
    assert location is not None
    assert (location.bucket, location.prefix) == ("models", "team/small/4f1c")


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    drive(tmp_path, small())
    before = (tmp_path / "status.json").read_bytes()
    (tmp_path / ".status.json.new").mkdir()  # as good as a full disk: the new status cannot be written
    with pytest.raises(OSError, match="Is a directory"):
        drive(tmp_path, small(iterations={"max": 2}))
    assert (tmp_path / "status.json").read_bytes() == before
    (tmp_path / ".status.json.new").rmdir()
    stands, _, _ = drive(tmp_path, small(iterations={"max": 2}))
    assert stands is not None
    assert stands.message == "2 of 2 iterations are done"


def test_a_damaged_status_is_named(tmp_path: Path) -> None:
    _, _, folder = drive(tmp_path, small())
    (tmp_path / "status.json").write_text('{"iteration": "many"}')
    with pytest.raises(FolderError, match=r"status.json was altered \(iteration: Input should be a valid integer\);"):
        folder.read()
    (tmp_path / "run.json").write_text("")
    with pytest.raises(FolderError, match=r"run.json was altered \(Invalid JSON: EOF while parsing"):
        folder.read()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    _, _, folder = drive(tmp_path, small())
    for name, look in (("runner.lock", folder.busy), ("status.json", folder.read), ("run.json", folder.read)):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(FolderError, match=rf"cannot read .*{name}: Is a directory"):
            look()


def runner_process(path: Path, rules: str) -> subprocess.Popen[bytes]:
    """A runner in a process of its own, as the `ippo` command would be."""
    code = "import sys; from tests.kit.toy_runner import main; main(sys.argv[1], sys.argv[2])"
    path_before = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path_before}"}
    return subprocess.Popen([sys.executable, "-c", code, str(path), rules], env=environment, start_new_session=True)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("behaviour", ["hang", "stubborn"])
def test_no_stage_survives_a_runner_that_is_killed(tmp_path: Path, behaviour: str) -> None:
    process = runner_process(tmp_path, f"fit-q={behaviour}-once")
    marker = tmp_path / "artifacts" / "hanging"
    until(marker.exists, "a stage hangs", 60)
    stage = int(marker.read_text())
    assert is_alive(stage)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not is_alive(stage), "the stage ends", 60)
    assert not RunFolder(tmp_path).busy()
    # what was recorded stands, the lost attempt is a disruption
    status = RunFolder(tmp_path).read().status
    assert status is not None
    assert (status.stage, status.attempt) == ("fit-q", 1)
    stands, listener, _ = drive(tmp_path, small(f"fit-q={behaviour}-once"))
    assert stands is not None
    assert stands.name == "Succeeded"
    assert "Disrupted" in listener.reasons()
    assert calls(tmp_path).count("1 collect 1 0") == 1


def test_a_second_ctrl_c_kills_a_stage_that_does_not_stop(tmp_path: Path) -> None:
    process = runner_process(tmp_path, "warm-start=stubborn")
    marker = tmp_path / "artifacts" / "hanging"
    until(marker.exists, "a stage hangs", 60)
    os.kill(process.pid, signal.SIGINT)
    until((tmp_path / "stopping").exists, "the runner stops", 60)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert not is_alive(int(marker.read_text()))
    [job] = (tmp_path / "jobs").iterdir()
    assert json.loads((job / "exit.json").read_text())["exitCode"] == 137
