"""A stand-in for the trainer's stages that the local runner's tests start: it behaves as the spec asks.

`policy.system_prompt` is a list of rules `stage[@iteration]=behaviour` separated by blanks: an exit code, `hang` (until
SIGTERM), `stubborn` (ignores SIGTERM), `kill`, `print` or `silent`; with `-once` in the first attempt only. All is
well once there is a file `mended` in the store.
"""

import json
import os
import signal
from pathlib import Path

from ippo_operator.local.processes import Launcher
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import ArtifactRef, Decision, Shard, StageResult, StageSpec
from ippo_trainer.contract.stages import BY_NAME


def toy_launcher() -> Launcher:
    """Starts stand-ins as processes; the fork server imports them once for all."""
    return Launcher(f"{__name__}:run_stage", [__name__])


def run_stage(spec_path: Path, shard: int | None, termination: Path, work: Path) -> int:
    spec = StageSpec.model_validate_json(spec_path.read_bytes())
    print(f"2026-01-31T12:00:00Z INFO {spec.stage}: 5/10 steps, 1/s, 5 s left")
    behaviour = _behaviour(spec)
    assert spec.store.directory is not None
    store = Path(spec.store.directory)
    store.mkdir(parents=True, exist_ok=True)
    with (store / "calls.txt").open("a") as calls:
        calls.write(f"{spec.iteration} {spec.stage} {spec.attempt} {shard}\n")
    if (store / "mended").exists():
        behaviour = "ok"
    if behaviour == "hang":
        _hang(store)
        return 143
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _say_where(store)
        while True:
            signal.pause()
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "print":
        print("Error: something odd")
        return 1
    if behaviour.isdigit():
        termination.write_text(json.dumps({"error": {"reason": "X", "message": f"the stage says {behaviour}"}}))
        return int(behaviour)
    if behaviour == "silent":
        return 0
    termination.write_bytes(_result(spec, shard).to_message())
    return 0


def _behaviour(spec: StageSpec) -> str:
    for rule in spec.policy.system_prompt.split():
        place, _, behaviour = rule.partition("=")
        stage, _, iteration = place.partition("@")
        if stage == spec.stage and iteration in {"", str(spec.iteration)}:
            once = behaviour.endswith("-once")
            return "ok" if once and spec.attempt > 1 else behaviour.removesuffix("-once")
    return "ok"


def _hang(store: Path) -> None:
    """Until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _say_where(store)
    signal.sigwait({signal.SIGTERM})


def _say_where(store: Path) -> None:
    """The file appears with the process id already in it."""
    (store / "hanging.new").write_text(str(os.getpid()))
    (store / "hanging.new").rename(store / "hanging")


def _result(spec: StageSpec, shard: int | None) -> StageResult:
    name = BY_NAME[spec.stage].artifact
    ref = ArtifactRef(key=f"iterations/{spec.iteration:04d}/{name}", digest=digest_of([spec.input_digest(), name]))
    last = shard is None or spec.collect is None or shard == spec.collect.parallelism - 1
    return StageResult(
        stage=spec.stage,
        iteration=spec.iteration,
        input_digest=spec.input_digest(),
        artifacts={name: ref} if last else {},
        metrics={"success": 0.25, "value": 0.2} if spec.stage == "evaluate" else {},
        shard=None if shard is None else Shard(index=shard, count=2, complete=last),
        decision=Decision(outcome="Promote", reason="better") if spec.stage == "evaluate" else None,
        informative=True if spec.stage == "fit-q" else None,
    )
