"""Improve on several processes: the same policy as on one, and one end for all of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.improve.improvement import Improvement
from ippo_trainer.models.files import ADAPTER_WEIGHTS
from ippo_trainer.stages import cli, improve_ranks
from ippo_trainer.stages.improve_ranks import first_failure
from ippo_trainer.store.artifact import fetch
from safetensors.torch import load_file

from tests.kit.forks import Fork
from tests.kit.ports import free_port

SECTION = params.Improve(
    algorithm="PPO",
    updates=3,
    batch_size=8,
    samples_per_state=2,
    critic_warmup_updates=2,
    learning_rate="0.003",
    kl_target="5",
)
MPO = params.Improve(
    algorithm="MPO",
    mpo=params.Mpo(conversations=11, own_candidates=3, explored_candidates=5, epochs=2, batch_size=4),
    kl_target="5",
)
PATIENCE = 240.0
HOOK = """
import os, signal, time
if os.environ.get("RANK"):
    from ippo_trainer.improve.improvement import Improvement
    from ippo_trainer.training import cadence
    from ippo_trainer.stages.runtime import StopFlag
    cadence.SAVE_SECONDS, cadence.SAVING_SHARE = 0.0, float("inf")
    run, handle, told = Improvement.run, StopFlag.handle, []

    def stop_the_pod():
        os.kill(os.getppid(), signal.SIGTERM)  # as the kubelet does
        while not told:
            time.sleep(0.01)

    def noted(self, *arguments):
        handle(self, *arguments)
        told.append(True)

    def stepwise(self, after_step):
        def step():
            if self.steps == {step} and os.environ["RANK"] == "{rank}":
                {what}
            after_step()
        run(self, step)

    Improvement.run, StopFlag.handle = stepwise, noted
"""
"""Of Python's start-up: does something in one process after so many warm-ups and updates. Saves after each."""


def spec_of(
    world: Any, section: params.Improve = SECTION, seed: int = 7, adapter: params.Adapter | None = None
) -> StageSpec:
    policy = world.put_policy(adapter=adapter)
    inputs = {"policy": policy, "q": world.put_q(policy), "data": world.put_data(world.demonstrations(30))}
    inputs["explorer"] = world.put_policy(1, "explorer", adapter)
    limits = params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256, max_new_tokens=8, adapter=adapter)
    spec: StageSpec = world.spec("improve", inputs, improve=section, policy=limits, seed=seed)
    return spec


class Ranks:
    """Pods of one process or more each, on this machine; or the processes alone, as torchrun starts them."""

    def __init__(self, world: Any, spec: StageSpec) -> None:
        self.world = world
        self.path = world.folder / "ranks.json"
        self.path.write_text(spec.model_dump_json(by_alias=True))
        self.port = free_port()
        self.started: list[subprocess.Popen[str] | Fork] = []

    def start(self, nodes: int = 1, processes: int = 1, hook: str = "") -> None:
        """Starts all the pods; each process runs `hook` first."""
        hooks = self.world.folder / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / "sitecustomize.py").write_text(hook)
        for node in range(nodes):
            environ = os.environ | {"OMP_NUM_THREADS": "1", "JOB_COMPLETION_INDEX": str(node), "PYTHONPATH": str(hooks)}
            module = "ippo_trainer.stages.improve_ranks"
            command = [sys.executable, "-m", module, "--nodes", str(nodes), "--processes", str(processes)]
            command += ["--port", str(self.port), "--spec", str(self.path), "--termination-log", str(self.log(node))]
            command += ["--work-dir", str(self.world.folder / f"work-{node}")]
            output = self.output(node).open("w")
            self.started.append(
                subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT, text=True)
            )

    def fork(self, nodes: int, hook: str = "") -> None:
        """Starts one process for each pod, without what waits for it there."""
        for node in range(nodes):
            environ = {"RANK": str(node), "LOCAL_RANK": "0", "WORLD_SIZE": str(nodes), "TORCHELASTIC_RUN_ID": "test"}
            environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
            with self.output(node).open("w") as output:
                self.started.append(Fork(partial(self._stage, node, hook), output.fileno(), environ))

    def _stage(self, node: int, hook: str) -> int:
        exec(hook, {})
        command = ["improve", "--spec", str(self.path), "--termination-log", str(self.log(node))]
        return cli.main([*command, "--work-dir", str(self.world.folder / f"work-{node}")])

    def log(self, node: int) -> Path:
        folder: Path = self.world.folder
        return folder / f"termination-{node}.json"

    def output(self, node: int) -> Path:
        folder: Path = self.world.folder
        return folder / f"output-{node}.txt"

    def told(self) -> str:
        return "".join(self.output(node).read_text() for node in range(len(self.started)))

    def wait(self) -> list[int]:
        """Exit codes, by pod."""
        return [pod.wait(PATIENCE) for pod in self.started]

    def said(self, node: int = 0) -> Any:
        return json.loads(self.log(node).read_bytes())

    def checkpoint(self) -> bool:
        return any(key.key.endswith("pointer.json") for key in self.world.store.list("iterations/0001/policy"))


@pytest.fixture
def launch(small_world: Any) -> Iterator[Callable[[StageSpec], Ranks]]:
    made: list[Ranks] = []

    def make(spec: StageSpec) -> Ranks:
        made.append(Ranks(small_world, spec))
        return made[-1]

    yield make
    for pod in (pod for ranks in made for pod in ranks.started):
        if pod.poll() is None:
            pod.kill()
            pod.wait(PATIENCE)


def outcome(world: Any, result: StageResult, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and account of the published policy."""
    folder = world.folder / name
    fetch(world.store, result.artifacts["policy"], folder, "policy")
    name = "model.safetensors" if (folder / "model.safetensors").exists() else ADAPTER_WEIGHTS
    return load_file(folder / name), json.loads((folder / "training.json").read_text())


def assert_alike(one: tuple[dict[str, Any], dict[str, Any]], other: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert one[0].keys() == other[0].keys()
    assert max(float((one[0][name] - other[0][name]).abs().max()) for name in one[0]) < 1e-5
    for kind in ("warmup", "curves"):
        assert len(one[1][kind]) == len(other[1][kind])
        for row, same in zip(one[1][kind], other[1][kind], strict=True):
            assert row == pytest.approx(same, abs=1e-4, rel=1e-3)
    assert (one[1]["ended"], one[1]["kept"]) == (other[1]["ended"], other[1]["kept"])


def again(world: Any) -> None:
    world.store.delete("iterations/0001/policy/result.json")


ADAPTER = params.Adapter(rank=4)


@pytest.mark.parametrize(
    ("section", "adapter", "start"),
    [
        (SECTION, None, Ranks.fork),
        (MPO, None, Ranks.fork),
        (SECTION, ADAPTER, Ranks.fork),
        (MPO, ADAPTER, Ranks.start),
    ],
    ids=["PPO", "MPO", "PPO, adapter", "MPO, adapter"],
)
def test_two_pods_make_the_policy_of_one_process(
    small_world: Any,
    launch: Callable[[StageSpec], Ranks],
    section: params.Improve,
    adapter: params.Adapter | None,
    start: Callable[[Ranks, int], None],
) -> None:
    spec = spec_of(small_world, section, adapter=adapter)
    alone = small_world.result(spec)
    expected = outcome(small_world, alone, "alone")
    again(small_world)
    ranks = launch(spec)
    start(ranks, 2)
    assert ranks.wait() == [0, 0], ranks.told()
    first, second = (StageResult.model_validate_json(json.dumps(ranks.said(node))) for node in (0, 1))
    assert first == second
    assert first.metrics == pytest.approx(alone.metrics, abs=1e-4)
    assert_alike(outcome(small_world, first, "together"), expected)


def test_a_stop_or_a_loss_of_one_ends_all_and_any_number_goes_on(
    small_world: Any, launch: Callable[[StageSpec], Ranks]
) -> None:
    spec = spec_of(small_world)
    expected = outcome(small_world, small_world.result(spec), "alone")
    again(small_world)

    lost = launch(spec)
    lost.start(nodes=2, hook=HOOK.format(rank=1, step=2, what="os.kill(os.getpid(), signal.SIGKILL)"))
    assert lost.wait() == [75, 137], lost.told()
    assert lost.said(0)["error"]["reason"] == "TryAgain"
    assert "another process of this stage was lost" in lost.said(0)["error"]["message"]
    assert "ended by SIGKILL" in lost.said(1)["error"]["message"]
    assert lost.checkpoint()

    stopped = launch(spec)
    stopped.start(nodes=2, hook=HOOK.format(rank=1, step=2, what="stop_the_pod()"))
    assert stopped.wait() == [143, 143], stopped.told()
    assert_stopped(stopped)
    assert_alike(outcome(small_world, small_world.result(spec), "resumed"), expected)


def assert_stopped(ranks: Ranks) -> None:
    """They went on from a checkpoint, and the second one was told to stop."""
    assert "resumed after" in ranks.told()
    assert ranks.said(0)["error"]["message"].startswith("stopped by the stop of another process")


def test_so_it_is_with_adapters(small_world: Any, launch: Callable[[StageSpec], Ranks]) -> None:
    spec = spec_of(small_world, adapter=ADAPTER)
    expected = outcome(small_world, small_world.result(spec), "alone")
    again(small_world)

    lost = launch(spec)
    lost.fork(2, HOOK.format(rank=1, step=2, what="os.kill(os.getpid(), signal.SIGKILL)"))
    assert lost.wait() == [75, -signal.SIGKILL], lost.told()
    assert lost.checkpoint()

    stopped = launch(spec)
    stopped.fork(2, HOOK.format(rank=1, step=2, what="signal.raise_signal(signal.SIGTERM)"))
    assert stopped.wait() == [143, 143], stopped.told()
    assert_stopped(stopped)
    assert_alike(outcome(small_world, small_world.result(spec), "resumed"), expected)


@pytest.mark.slow  # the same on any number of processes: test_a_stop_or_a_loss_of_one_ends_all_and_any_number_goes_on
def test_two_processes_of_a_pod_go_on_from_the_checkpoint_of_one(
    small_world: Any, launch: Callable[[StageSpec], Ranks], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(small_world)
    expected = outcome(small_world, small_world.result(spec), "alone")
    again(small_world)
    run = Improvement.run

    def stopped(self: Improvement, after_step: Callable[[], None]) -> None:
        def last_step() -> None:
            if self.steps == 3:
                signal.raise_signal(signal.SIGTERM)
            after_step()

        run(self, last_step)

    with monkeypatch.context() as patch:
        patch.setattr(Improvement, "run", stopped)
        assert small_world.run(spec)[0] == 143
    ranks = launch(spec)
    ranks.start(processes=2)
    assert ranks.wait() == [0], ranks.told()
    assert "resumed after 3" in ranks.told()
    assert ranks.told().count('"artifacts"') == 1, "one process prints the result"
    result = StageResult.model_validate_json(json.dumps(ranks.said()))
    assert_alike(outcome(small_world, result, "together"), expected)


def test_what_is_wrong_with_the_spec_is_said_as_ever(small_world: Any, launch: Callable[[StageSpec], Ranks]) -> None:
    ranks = launch(spec_of(small_world).model_copy(update={"improve": None}))
    ranks.start(processes=2)
    assert ranks.wait() == [64]
    assert "improve is missing" in ranks.said()["error"]["message"]


@pytest.mark.parametrize("node", ["0", "1"])
def test_pods_that_wait_in_vain_try_again(node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(improve_ranks, "MEETING_SECONDS", 2)
    log = tmp_path / "log.json"
    where = ["--nodes", "2", "--node", node, "--port", str(free_port())]
    assert improve_ranks.main([*where, "--termination-log", str(log), "--spec", "spec.json"]) == 75
    assert "did not meet at 127.0.0.1" in json.loads(log.read_bytes())["error"]["message"]


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ({0: 75, 1: 65}, (65, 1)),
        ({0: 1, 1: 64}, (64, 1)),
        ({0: 75, 1: -9}, (137, 1)),
        ({0: 143, 1: 1}, (1, 1)),
        ({0: 143, 1: 143}, (143, 0)),
        ({1: -15}, (143, 1)),
        ({0: 75, 1: 75}, (75, 0)),
    ],
)
def test_the_process_that_failed_tells_not_the_one_that_followed(
    ended: dict[int, int], expected: tuple[int, int]
) -> None:
    assert first_failure(ended) == expected
