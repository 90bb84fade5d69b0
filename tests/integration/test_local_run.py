"""`ippo run` from end to end with real stages: Ctrl-C, resume, status, report, and the exact score of what came out."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import local_runs as runs

EXAMPLES = Path(__file__).parents[2] / "examples"


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not holds():
        assert process.poll() is None, "the run ended too early"
        threading.Event().wait(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was stopped by Ctrl-C while it fitted Q, and then resumed to its end."""
    folder = tmp_path_factory.mktemp("run")
    manifest, out = runs.write_smoke(folder), folder / "out"
    process = runs.start(manifest, out)
    wait_until(lambda: bool(list(out.glob("jobs/*-fit-q-a1-*/log.txt"))), process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "the same command resumes" in output
    [ended] = out.glob("jobs/*-fit-q-a1-*/exit.json")
    assert json.loads(ended.read_text())["exitCode"] == 143
    return out, runs.finish(manifest, out)


def test_it_goes_on_where_it_was_stopped(finished: tuple[Path, str]) -> None:
    out, output = finished
    assert "iteration 1 fit-q starts, attempt 2" in output
    assert "collect starts" not in output
    assert len(list(out.glob("jobs/*-collect-*"))) == 1


def test_status_tells_the_decision_and_the_exact_score(finished: tuple[Path, str]) -> None:
    out, _ = finished
    status = runs.status(out)
    assert status["phase"] == "Succeeded"
    [row] = status["iterations"]
    assert row["decision"] == "Promote"
    assert row["policyDigest"] == row["candidate"]["policyDigest"]
    assert row["metrics"]["exactValue"] > row["metrics"]["exactValueCurrent"]
    assert 0 < row["exact"]["standardError"] < 0.05
    assert row["exact"]["shareOfOptimum"] <= 1.02


def test_ippo_exact_scores_the_policy_alike(finished: tuple[Path, str]) -> None:
    out, _ = finished
    [row] = runs.status(out)["iterations"]
    command = [
        sys.executable,
        "-m",
        "ippo_operator.cli.main",
        "exact",
        "--env",
        "sr-funnel",
        "--horizon",
        "4",
        "--json",
    ]
    command += ["--tables", str(EXAMPLES / "easy-customers.json"), "--conversations", "500"]
    command += ["--policy", str(out / "artifacts" / row["artifacts"]["improve"]["key"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document = json.loads(done.stdout)["policies"][-1]
    assert document["name"] == "policy"
    error = (document["standardError"] ** 2 + row["exact"]["standardError"] ** 2) ** 0.5
    assert abs(document["value"] - row["exact"]["value"]) < 5 * error


def test_the_report_is_there_and_needs_no_network(finished: tuple[Path, str]) -> None:
    out, output = finished
    assert f"report: {out / 'report.html'}" in output
    html = (out / "report.html").read_text()
    assert "<script src" not in html
    assert "stylesheet" not in html


def test_its_policy_answers_and_is_cut_where_the_run_cuts(finished: tuple[Path, str]) -> None:
    out, _ = finished
    command = [sys.executable, "-m", "ippo_operator.cli.main", "serve", str(out), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = next(line.split()[-1] for line in process.stderr if "listening on port" in line)
        assert any("ready: policy" in line for line in iter(process.stderr.readline, ""))
        body = {"model": "tiny-smoke", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4096}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
        process.terminate()
        process.stderr.read()
    assert process.returncode == 0
    longest = json.loads((out / "run.json").read_text())["spec"]["policy"]["maxNewTokens"]
    assert 0 < document["usage"]["completion_tokens"] <= longest


def test_a_run_that_is_done_ends_at_once(finished: tuple[Path, str]) -> None:
    out, _ = finished
    before = runs.status(out)
    output = runs.finish(out.parent / "run.yaml", out)
    assert "starts" not in output
    assert runs.status(out) == before


def test_a_stage_that_finds_bad_data_ends_the_run_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"conversation_id": "a", "messages": [], "outcome": true}\n')
    manifest = runs.write_smoke(tmp_path, warmStart={"conversations": f"file://{tmp_path}/log.jsonl"})
    process = runs.start(manifest, tmp_path / "out")
    output, _ = process.communicate()
    assert process.returncode == 65, output
    assert "InvalidData: iteration 0 warm-start: " in output
    assert "log.jsonl" in output
    assert "Traceback" not in output
    status = runs.status(tmp_path / "out")
    assert (status["phase"], status["lastFailure"]["exitCode"]) == ("Failed", 65)
