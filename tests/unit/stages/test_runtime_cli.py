"""`ippo-stage` as a command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ippo_trainer.stages import cli

SPEC = {
    "stage": "fit-q",
    "run": "shop",
    "iteration": 1,
    "seed": 7,
    "discount": "0.95",
    "policy": {"base": "tiny:d64-l2"},
}


def ippo_stage(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ippo_trainer.stages.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_help_teaches() -> None:
    run = ippo_stage("--help")
    assert run.returncode == 0
    for word in ("warm-start", "collect", "fit-q", "improve", "evaluate", "exit codes", "143", "checkpoint", "example"):
        assert word in run.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-stage", "--spec", "x"], "no-such-stage"),
        (["collect"], "--spec"),
        ([], "STAGE"),
        (["collect", "--spec", "x", "--shard-index", "one"], "one"),
        (["collect", "--spec", "x", "--what"], "--what"),
    ],
)
def test_wrong_usage_is_a_wrong_spec(capsys: pytest.CaptureFixture, arguments: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 64
    assert says in capsys.readouterr().err


def test_the_spec_must_be_of_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC | {"store": {"directory": str(tmp_path)}}))
    log = tmp_path / "log"
    assert cli.main(["improve", "--spec", str(spec), "--termination-log", str(log)]) == 64
    assert "is for fit-q, not for improve" in json.loads(log.read_text())["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["collect"], {}, None),
        (["collect"], {"JOB_COMPLETION_INDEX": "4"}, 4),
        (["collect", "--shard-index", "2"], {"JOB_COMPLETION_INDEX": "4"}, 2),
        (["collect"], {"JOB_COMPLETION_INDEX": "x"}, None),
        (["improve"], {"JOB_COMPLETION_INDEX": "4"}, None),
    ],
)
def test_the_shard_comes_from_the_job(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], expected: int | None
) -> None:
    seen = []
    monkeypatch.setattr("ippo_trainer.stages.runtime.run_stage", lambda *a, **k: seen.append((a, k)) or 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main([*arguments, "--spec", "s.json"]) == 0
    assert seen == [((Path("s.json"), expected, None, None), {"stage": arguments[0]})]


def test_the_termination_log_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPPO_TERMINATION_LOG", str(tmp_path / "log"))
    assert cli.main(["fit-q", "--spec", str(tmp_path / "none.json")]) == 64
    assert json.loads((tmp_path / "log").read_text())["error"]["reason"] == "InvalidSpec"


def test_outside_a_pod_there_is_no_termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").touch()
    monkeypatch.setattr(cli, "POD_LOG", tmp_path / "log")
    assert cli._termination_log({}) is None
    assert cli._termination_log({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == tmp_path / "log"
    assert cli._termination_log({"IPPO_TERMINATION_LOG": "/x"}) == Path("/x")


def test_unknown_s3_places_fail_as_a_command(tmp_path: Path) -> None:
    """The whole way through: exit code, one clear line, no traceback, no secret."""
    spec = tmp_path / "spec.json"
    place = {"bucket": "bad_bucket!", "endpointUrl": "http://user:hunter22@127.0.0.1:9"}
    spec.write_text(json.dumps(SPEC | {"store": {"s3": place}}))
    run = ippo_stage(
        "fit-q", "--spec", spec, AWS_ACCESS_KEY_ID="id-of-the-key", AWS_SECRET_ACCESS_KEY="secret-of-the-key"
    )
    assert run.returncode == 64
    assert "bucket or endpointUrl is malformed" in run.stderr
    assert "Traceback" not in run.stderr
    for secret in ("hunter22", "id-of-the-key", "secret-of-the-key"):
        assert secret not in run.stderr + run.stdout
