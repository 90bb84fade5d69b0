"""What surrounds every stage: idempotent results, exit codes, signals, inputs, and no secret anywhere."""

import errno
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StoppedError, TryAgainError
from ippo_trainer.contract.spec import MAX_RESULT_BYTES, ArtifactRef, StageResult, StageSpec
from ippo_trainer.stages.runtime import StageContext, read_spec, run_stage
from ippo_trainer.store.artifact import fetch, publish
from ippo_trainer.store.local import LocalStore
from torch import Tensor

RESULT = "iterations/0001/q/result.json"
Run = Callable[[StageContext], StageResult]


def spec_of(home: Path, **changes: Any) -> dict[str, Any]:
    return {
        "stage": "fit-q",
        "run": "shop",
        "iteration": 1,
        "seed": 7,
        "threads": 1,
        "discount": "0.95",
        "store": {"directory": str(home / "store")},
        "policy": {"base": "tiny:d64-l2"},
    } | changes


class Bench:
    """Runs stages whose work is a function of the test."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self._patch = home, patch
        self.store = LocalStore(home / "store")
        self.log = home / "termination-log"
        self.calls = 0

    def work(self, run: Run, stage: str = "fit_q") -> None:
        def counted(ctx: StageContext) -> StageResult:
            self.calls += 1
            return run(ctx)

        module = types.ModuleType(f"ippo_trainer.stages.{stage}")
        module.run = counted  # type: ignore[attr-defined]
        self._patch.setitem(sys.modules, module.__name__, module)

    def run(self, shard: int | None = None, **changes: Any) -> int:
        path = self.home / "spec.json"
        path.write_text(json.dumps(spec_of(self.home, **changes)))
        self.log.unlink(missing_ok=True)
        return run_stage(path, shard, self.log, self.home / "tmp")

    def error(self) -> dict[str, str]:
        assert self.log.stat().st_size <= MAX_RESULT_BYTES
        return json.loads(self.log.read_text())["error"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path, monkeypatch)
    bench.work(fit)
    return bench


def fit(ctx: StageContext) -> StageResult:
    directory = ctx.work / "model"
    directory.mkdir()
    (directory / "weights").write_bytes(b"weights")
    return ctx.result(artifacts={"q": ctx.publish(ctx.folder, directory, "q")}, metrics={"loss": 0.25})


def test_a_result_is_stored_printed_and_left_for_the_operator(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    assert bench.run() == 0
    body = bench.store.read(RESULT)
    assert capsys.readouterr().out.encode() == body + b"\n"
    assert bench.log.read_bytes() == body
    result = StageResult.model_validate_json(body)
    assert result.input_digest == StageSpec.model_validate(spec_of(bench.home)).input_digest()
    fetch(bench.store, result.artifacts["q"], bench.home / "out", "q")


def test_a_second_run_says_the_same_and_does_nothing(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    assert bench.run() == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in bench.store.root.rglob("*") if path.is_file()}
    assert bench.run(attempt=2) == 0
    assert capsys.readouterr().out == first
    assert bench.log.read_text() + "\n" == first
    assert bench.calls == 1
    assert before == {path: path.stat().st_mtime_ns for path in bench.store.root.rglob("*") if path.is_file()}


def test_a_result_of_other_inputs_is_an_error(bench: Bench) -> None:
    assert bench.run() == 0
    before = bench.store.read(RESULT)
    assert bench.run(seed=8) == 65
    assert "other inputs" in bench.error()["message"]
    assert bench.store.read(RESULT) == before
    assert bench.calls == 1


def test_a_damaged_result_is_an_error(bench: Bench) -> None:
    bench.store.put(RESULT, b"{}")
    assert bench.run() == 65
    assert "result.json is no valid stage result" in bench.error()["message"]


def test_the_loser_of_a_race_uses_the_winners_result(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    winner = b""

    def slow(ctx: StageContext) -> StageResult:
        nonlocal winner
        winner = ctx.result(metrics={"loss": 1.0}).to_message()
        ctx.store.put(RESULT, winner)
        return ctx.result(metrics={"loss": 2.0})

    bench.work(slow)
    assert bench.run() == 0
    assert bench.store.read(RESULT) == bench.log.read_bytes() == winner
    assert capsys.readouterr().out.encode() == winner + b"\n"


def test_the_loser_against_other_inputs_fails(bench: Bench) -> None:
    def slow(ctx: StageContext) -> StageResult:
        other = ctx.spec.model_copy(update={"seed": 99})
        ctx.store.put(RESULT, StageContext(other, ctx.store, ctx.work).result().to_message())
        return ctx.result()

    bench.work(slow)
    assert bench.run() == 65


def _racer(spec: Path, work: Path, barrier: Any, number: int, results: Any) -> None:
    def run(ctx: StageContext) -> StageResult:
        barrier.wait(30)
        return ctx.result(metrics={"loss": float(number)})

    module = types.ModuleType("ippo_trainer.stages.fit_q")
    module.run = run  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    log = work / f"log{number}"
    results.put((run_stage(spec, None, log, work), log.read_bytes()))


def test_processes_that_race_agree(bench: Bench) -> None:
    spec = bench.home / "spec.json"
    spec.write_text(json.dumps(spec_of(bench.home)))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_racer, args=(spec, bench.home / "tmp", barrier, n, results)) for n in range(3)]
    for racer in racers:
        racer.start()
    ends = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert [code for code, _ in ends] == [0, 0, 0]
    assert {body for _, body in ends} == {bench.store.read(RESULT)}


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (BadSpecError("field x", "Correct it."), 64, "InvalidSpec"),
        (BadDataError("file x", "Replace it."), 65, "InvalidData"),
        (TryAgainError("S3 is down"), 75, "TryAgain"),
        (StoppedError("stopped"), 143, "Disrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/scratch/x"), 75, "TryAgain"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 75, "TryAgain"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 75, "TryAgain"),
        (ValueError("bug"), 1, "UserCodeFailed"),
        (SystemExit(0), 1, "UserCodeFailed"),
        (MemoryError(), 1, "UserCodeFailed"),
    ],
)
def test_exit_codes(bench: Bench, capsys: pytest.CaptureFixture, error: BaseException, code: int, reason: str) -> None:
    def fail(ctx: StageContext) -> StageResult:
        raise error

    bench.work(fail)
    assert bench.run() == code
    assert bench.error()["reason"] == reason
    output = capsys.readouterr()
    assert output.out == ""
    assert ("Traceback" in output.err) == (code == 1)
    assert bench.error()["message"] in output.err
    assert bench.store.info(RESULT) is None


@pytest.mark.parametrize(("error", "code"), [(BadDataError("no \ud83d"), 65), (ValueError("no \ud83d"), 1)])
def test_half_a_character_in_a_message_does_not_hide_the_failure(
    bench: Bench, error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ippo_trainer"), "propagate", False)  # xdist cannot carry such a log

    def fail(ctx: StageContext) -> StageResult:
        raise error

    bench.work(fail)
    assert bench.run() == code
    assert bench.error()["message"].endswith("no \\ud83d")


def test_a_full_disk_below_a_librarys_own_error(bench: Bench) -> None:
    def fail(ctx: StageContext) -> StageResult:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/scratch/model.safetensors")
        except OSError as error:
            raise RuntimeError("could not serialise") from error

    bench.work(fail)
    assert bench.run() == 75
    assert "/scratch/model.safetensors is full" in bench.error()["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_noticed_and_the_work_resumed(bench: Bench, number: signal.Signals) -> None:
    """Three steps; the signal comes in the second; the next attempt does only the third."""
    steps = []

    def run(ctx: StageContext) -> StageResult:
        directory = ctx.work / "state"
        start = ctx.load_checkpoint(directory) or 0
        directory.mkdir(exist_ok=True)
        for step in range(start + 1, 4):
            steps.append(step)
            if step == 2 and ctx.spec.attempt == 1:
                os.kill(os.getpid(), number)
            (directory / "state").write_text(str(step))
            ctx.save_checkpoint(directory, step)
            ctx.check_stop()
        return ctx.result()

    bench.work(run)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert bench.run() == 143
    assert bench.error()["reason"] == "Disrupted"
    assert number.name in bench.error()["message"]
    assert steps == [1, 2]
    assert bench.store.info("iterations/0001/q/checkpoint/pointer.json") is not None
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    assert bench.run(attempt=2) == 0
    assert steps == [1, 2, 3]
    assert [found.key for found in bench.store.list("")] == [RESULT], "the checkpoint is gone"


def test_a_second_ctrl_c_does_not_wait(bench: Bench) -> None:
    def run(ctx: StageContext) -> StageResult:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("unreachable")

    bench.work(run)
    assert bench.run() == 143
    assert "second Ctrl-C" in bench.error()["message"]


def test_two_different_signals_are_one_stop(bench: Bench) -> None:
    """A terminal's Ctrl-C, passed on as SIGTERM by whoever runs the stage: the checkpoint is still saved."""
    saved = []

    def run(ctx: StageContext) -> StageResult:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        saved.append(True)
        ctx.check_stop()
        raise AssertionError("unreachable")

    bench.work(run)
    assert bench.run() == 143
    assert saved


def test_it_runs_in_a_thread_without_touching_signals(bench: Bench) -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(bench.run()))
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_inputs_are_fetched_once_verified_and_traced(bench: Bench) -> None:
    source = bench.home / "policy"
    source.mkdir()
    (source / "f").write_bytes(b"f")
    ref = publish(bench.store, "iterations/0000/policy", source, "policy")

    def run(ctx: StageContext) -> StageResult:
        first, second = ctx.input("policy", "policy"), ctx.input("policy", "policy")
        assert first == second
        assert (first / "f").read_bytes() == b"f"
        return ctx.result(artifacts={"q": ctx.publish(ctx.folder, first, "q", {"n": 1})})

    bench.work(run)
    assert bench.run(inputs={"policy": ref.model_dump()}) == 0
    q = StageResult.model_validate_json(bench.store.read(RESULT)).artifacts["q"]
    assert fetch(bench.store, q, bench.home / "out", "q").inputs == {"policy": ref.digest}


def test_a_missing_or_damaged_input_is_named(bench: Bench) -> None:
    def run(ctx: StageContext) -> StageResult:
        ctx.input("policy", "policy")
        raise AssertionError("unreachable")

    bench.work(run)
    assert bench.run() == 64
    assert "inputs.policy is missing" in bench.error()["message"]
    ref = ArtifactRef(key="iterations/0000/policy/0123", digest="sha256:" + "0" * 64)
    assert bench.run(inputs={"policy": ref.model_dump()}) == 65
    assert "never published as a whole" in bench.error()["message"]


def test_the_working_directory_is_empty_and_goes(bench: Bench) -> None:
    seen = []

    def run(ctx: StageContext) -> StageResult:
        seen.append(ctx.work)
        assert list(ctx.work.iterdir()) == []
        (ctx.work / "deep").mkdir()
        (ctx.work / "deep" / "file").write_bytes(b"x")
        raise ValueError("bug")

    bench.work(run)
    assert bench.run() == 1
    assert seen[0].is_relative_to(bench.home / "tmp")
    assert list((bench.home / "tmp").iterdir()) == []


def test_what_killed_stages_left_is_swept_and_what_live_ones_use_is_not(bench: Bench) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            bench.work(lambda ctx: os.write(writer, str(ctx.work).encode()) and signal.pause())
            bench.run()
        finally:
            os._exit(0)
    abandoned = Path(os.read(reader, 1000).decode())
    assert bench.run() == 0
    assert abandoned.exists(), "its owner lives"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert bench.run(seed=9, iteration=2) == 0
    assert list((bench.home / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "the file: Invalid JSON"),
        ("{}", "stage: Field required"),
        (json.dumps(spec_of(Path("/x"), seed="7")), "seed: Input should be a valid integer"),
        (json.dumps(spec_of(Path("/x"), extra=1)), "extra: Extra inputs are not permitted"),
        (
            json.dumps(spec_of(Path("/x"), collect={"conversations": 1})),
            "collect.conversations: Input should be greater",
        ),
        (json.dumps(spec_of(Path("/x"), store={})), "store: Value error, set exactly one"),
        (json.dumps(spec_of(Path("/x"), run="../up")), "run: String should match"),
    ],
)
def test_a_wrong_spec_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(BadSpecError, match=f"spec.json: {says}") as caught:
        read_spec(tmp_path / "spec.json")
    assert "\n" not in str(caught.value)


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    assert run_stage(tmp_path / "nowhere.json", termination_log=tmp_path / "log") == 64
    assert "nowhere.json: No such file" in (tmp_path / "log").read_text()


def test_shards(bench: Bench) -> None:
    seen = []

    def run(ctx: StageContext) -> StageResult:
        seen.append((ctx.shard_index, ctx.folder))
        return ctx.result()

    bench.work(run, "collect")
    three = {"stage": "collect", "collect": {"parallelism": 3}}
    for wrong in (None, -1, 3):
        assert bench.run(wrong, **three) == 64
        assert "shards 0 to 2" in bench.error()["message"]
    assert bench.run(2, **three) == 0
    assert bench.run(0, **three) == 0
    assert seen == [(2, "iterations/0001/collect/shards/00002"), (0, "iterations/0001/collect/shards/00000")]
    assert bench.store.info("iterations/0001/collect/shards/00002/result.json") is not None
    assert bench.run(stage="collect", iteration=2, collect={"parallelism": 1}) == 0
    assert seen[-1] == (0, "iterations/0002/collect/shards/00000")
    assert bench.run(stage="collect", iteration=3) == 64
    assert bench.run(1) == 64, "fit-q has no shards"


def test_figures_that_are_not_numbers_are_never_published(bench: Bench) -> None:
    bench.work(lambda ctx: ctx.result(metrics={"loss": float("nan")}))
    assert bench.run() == 65
    assert "metric loss" in bench.error()["message"]
    assert bench.store.info(RESULT) is None


def test_a_result_that_is_too_long_or_of_another_stage_is_never_published(bench: Bench) -> None:
    bench.work(
        lambda ctx: ctx.result(
            artifacts={f"a{n}": ArtifactRef(key="k", digest="sha256:" + "0" * 64) for n in range(99)}
        )
    )
    assert bench.run() == 1
    bench.work(lambda ctx: ctx.result().model_copy(update={"stage": "collect"}))
    assert bench.run() == 1
    assert bench.store.info(RESULT) is None


def test_long_errors_are_cut_to_fit(bench: Bench) -> None:
    def fail(ctx: StageContext) -> StageResult:
        raise BadDataError('"\n\x00ü漢' * 3000)

    bench.work(fail)
    assert bench.run() == 65
    assert bench.error()["message"].endswith("…")


def test_an_unwritable_termination_log_is_only_a_warning(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    bench.log.mkdir()
    path = bench.home / "spec.json"
    path.write_text(json.dumps(spec_of(bench.home)))
    assert run_stage(path, None, bench.log, bench.home / "tmp") == 0
    assert "cannot write the termination log" in capsys.readouterr().err


def test_a_store_that_may_only_be_read_is_noticed_before_the_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BadSpecError("S3 answered 403 AccessDenied", "Check the credentials.")

    monkeypatch.setattr(LocalStore, "put", refuse)
    assert bench.run() == 64
    assert bench.calls == 0
    assert "403 AccessDenied" in bench.error()["message"]


def test_a_checkpoint_that_cannot_be_cleared_does_not_undo_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def down(*_: object) -> None:
        raise TryAgainError("S3 is down")

    monkeypatch.setattr("ippo_trainer.store.checkpoint.StageCheckpoint.clear", down)
    assert bench.run() == 0
    assert "its checkpoint was not deleted" in capsys.readouterr().err


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Puts torch's process-wide settings back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("torch_settings")
def test_sums_are_the_same_every_time_whatever_the_threads_do(bench: Bench) -> None:
    seen: list[Tensor] = []

    def gradients(ctx: StageContext) -> StageResult:
        assert torch.get_num_threads() == 2
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(9000, 64, generator=generator)
        index = torch.randint(0, 500, (4000,), generator=generator)
        weights = torch.randn(4000, 64, generator=generator)
        for _ in range(20):
            leaf = values.clone().requires_grad_()
            (leaf[index] * weights).sum().backward()
            seen.append(leaf.grad)
        return fit(ctx)

    bench.work(gradients)
    assert bench.run(threads=2) == 0
    assert len(seen) == 20
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_secrets_never_come_out(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret-0123456789",
        "AWS_ACCESS_KEY_ID": "minio-user-0123",
        "AWS_SESSION_TOKEN": "session-token-012345",
        "HF_TOKEN": "hf_0123456789abcdef",
        "DB_PASSWORD": "correct horse battery",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    credentials = bench.home / "credentials"
    credentials.write_text(
        "[default]\naws_access_key_id = file-key-id-0123\naws_secret_access_key = file-secret-0123456\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    token = bench.home / "token"
    token.write_text("eyJhbGciOi.web.identity\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    hidden = [
        *secrets.values(),
        "file-key-id-0123",
        "file-secret-0123456",
        "eyJhbGciOi.web.identity",
        "AKIAIOSFODNN7EXAMPLE",
    ]
    text = " ".join([*hidden, "http://user:pass@host/x?X-Amz-Signature=deadbeefcafe"])
    hidden += ["user:pass", "deadbeefcafe"]

    def leak(ctx: StageContext) -> StageResult:
        ctx.log.info("log %s", text)
        logging.getLogger("botocore").error("library %s", text)
        raise ValueError(text)

    bench.work(leak)
    assert bench.run() == 1
    output = capsys.readouterr()
    everything = output.out + output.err + bench.log.read_text()
    assert "library" in everything
    assert "http://[secret]@host/x" in everything
    for secret in hidden:
        assert secret not in everything


def test_log_lines_are_plain_with_the_time(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    bench.work(lambda ctx: ctx.log.info("half done") or ctx.result())
    assert bench.run() == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.endswith("Z INFO half done") and line[4] == "-" and line[10] == "T" for line in lines)
    assert logging.getLogger().handlers == [h for h in logging.getLogger().handlers if "ippo" not in type(h).__module__]


def test_a_warning_of_a_stage_is_in_its_result_also_when_it_is_read_again(bench: Bench) -> None:
    def warned(ctx: StageContext) -> StageResult:
        ctx.warn("3 conversations were dropped")
        return fit(ctx)

    bench.work(warned)
    for _ in range(2):
        assert bench.run() == 0
        assert json.loads(bench.log.read_text())["warnings"] == ["3 conversations were dropped"]
    assert bench.calls == 1
