"""The gateway and the policy servers of a local run, with stand-ins: real processes, real signals, real files."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.main import main
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.live import gateway as gateway_module
from ippo_operator.local.live.gateway import PortTakenError, read_address
from ippo_operator.local.live.keeper import LiveProcesses
from ippo_operator.local.live.servers import Place
from ippo_operator.local.runner import Runner, Signals
from ippo_operator.plan.types import CanaryIntent, Event, LiveIntent, ObservedLive
from ippo_trainer.contract.live import Canary, Routes
from ippo_trainer.contract.spec import StoreLocation

from tests.kit.cluster_objects import POLICY, live_run
from tests.kit.planner_world import make_run
from tests.kit.ports import free_port
from tests.kit.toy_live import live_launcher
from tests.kit.waiting import until

ROOT = Path(__file__).parents[3]
OTHER = POLICY.model_copy(
    update={"iteration": 4, "artifact": POLICY.artifact.model_copy(update={"digest": "sha256:" + "b" * 64})}
)
SINCE = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    """Seconds that pass at a call."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """The processes of a run and the folder that they read and write."""

    live: LiveProcesses
    folder: Path
    clock: Clock
    port: int

    def rules(self, policy: object, name: str, text: str = "") -> Path:
        """A file that tells a stand-in server how to behave."""
        digest = policy.artifact.digest  # type: ignore[attr-defined]
        path = self.folder / "rules" / digest.removeprefix("sha256:")[:16] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def routes(self) -> Routes:
        return Routes.model_validate_json((self.folder / "routes.json").read_bytes())

    def pids(self, name: str) -> list[int]:
        """Of the processes that were started under that name, in order."""
        file = self.folder / "starts" / name
        return list(map(int, file.read_text().split())) if file.exists() else []

    def observe(self) -> ObservedLive:
        self.live.keep()
        return self.live.observe()

    def active(self) -> str | None:
        """The policy that the gateway reports."""
        report = self.observe().report
        return None if report is None else report.active.digest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(gateway_module, "_PATIENCE", 0.0)
    port, clock, folder = free_port(), Clock(), tmp_path / "live"
    folder.mkdir()
    run = live_run(gateway={"port": port})
    place = Place(folder, StoreLocation(directory=str(tmp_path / "artifacts")), run, live_launcher())
    processes = LiveProcesses(place, clock)
    yield World(processes, folder, clock, port)
    clock.now += 1000
    processes.end(0.0)


def name_of(policy: object) -> str:
    return policy.artifact.digest.removeprefix("sha256:")[:16]  # type: ignore[attr-defined,no-any-return]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_policy_gets_a_server_and_a_gateway_in_front_of_it(world: World) -> None:
    assert world.live.observe() == ObservedLive()
    world.live.carry_out(None)
    assert world.live.processes() == []
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.active() == POLICY.artifact.digest, "a report")
    assert len(world.live.processes()) == 2
    assert world.routes().canary is None
    assert read_address(world.folder.parent) == f"http://localhost:{world.port}"
    assert json.loads((world.folder / "gateway.json").read_text())["run"] == "shop"


def test_no_gateway_stands_in_front_of_servers_that_cannot_answer_yet(world: World) -> None:
    unready = world.rules(POLICY, "unready")
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.pids(name_of(POLICY)) != [], "a server")
    observed = world.observe()
    assert (observed.report, observed.trouble, world.pids("gateway")) == (None, None, [])
    unready.unlink()
    until(lambda: world.active() == POLICY.artifact.digest, "a report")


def test_a_gateway_that_is_silent_for_long_is_trouble(world: World) -> None:
    world.rules(POLICY, "unready")
    world.live.carry_out(LiveIntent(POLICY))
    assert world.observe().trouble is None
    world.clock.now += 61
    trouble = world.observe().trouble
    assert trouble is not None
    assert trouble.message == "the gateway does not answer"


@pytest.mark.parametrize("name", ["gateway", name_of(POLICY)])
def test_what_dies_is_started_again_later_each_time(world: World, name: str) -> None:
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.active() is not None, "a report")
    os.kill(world.pids(name)[-1], signal.SIGKILL)
    until(lambda: len(world.live.processes()) == 1, "the end")
    world.live.keep()
    assert len(world.pids(name)) == 1, "not at once"
    world.clock.now += 1
    world.live.keep()
    until(lambda: world.active() is not None and len(world.pids(name)) == 2, "another start")
    os.kill(world.pids(name)[-1], signal.SIGKILL)
    until(lambda: len(world.live.processes()) == 1, "the end")
    world.live.keep()
    world.clock.now += 0.6
    world.live.keep()
    assert len(world.pids(name)) == 2, "the pause is longer now"


def test_another_active_policy_is_named_once_it_is_ready_and_only_then_the_old_one_ends(world: World) -> None:
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.active() == POLICY.artifact.digest, "a report")
    unready = world.rules(OTHER, "unready")
    world.live.carry_out(LiveIntent(OTHER))
    until(lambda: world.pids(name_of(OTHER)) != [], "a server of the new policy")
    world.clock.now += 100
    world.live.keep()
    assert world.routes().active.digest == POLICY.artifact.digest
    unready.unlink()
    until(lambda: world.active() == OTHER.artifact.digest, "other routes")
    [old] = world.pids(name_of(POLICY))
    assert alive(old), "the gateway may not have read the routes yet"
    world.clock.now += 5
    policies = world.folder / "policies"
    until(lambda: bool(world.active()) and len(list(policies.iterdir())) == 1, "the end of the old server")
    assert not alive(old)
    assert (policies / name_of(OTHER)).is_dir()
    assert len(world.live.processes()) == 2


def test_a_candidate_has_a_server_gets_conversations_from_then_on_and_can_become_the_active_policy(
    world: World,
) -> None:
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.active() is not None, "a report")
    world.live.carry_out(LiveIntent(POLICY, CanaryIntent(OTHER, None, Canary())))
    until(lambda: world.observe().candidate_ready, "a server of the candidate")
    assert world.routes().canary is None
    world.live.carry_out(LiveIntent(POLICY, CanaryIntent(OTHER, SINCE, Canary())))
    canary = world.routes().canary
    assert canary is not None
    assert (canary.route.digest, canary.since) == (OTHER.artifact.digest, SINCE.timestamp())
    world.live.carry_out(LiveIntent(OTHER))
    until(lambda: world.active() == OTHER.artifact.digest, "the promotion")
    assert world.routes().canary is None
    assert len(world.pids(name_of(OTHER))) == 1, "its server stays"


def test_a_candidate_that_cannot_start_says_why(world: World) -> None:
    world.rules(OTHER, "end", "65")
    world.live.carry_out(LiveIntent(POLICY, CanaryIntent(OTHER, None, Canary())))
    until(lambda: world.observe().candidate_failed != "", "a verdict")
    observed = world.observe()
    assert not observed.candidate_ready
    assert "it ended with 65: ERROR it cannot start, see " in observed.candidate_failed


def test_an_active_policy_that_cannot_start_is_trouble_and_is_tried_again(world: World) -> None:
    world.rules(POLICY, "end", "1")
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.pids(name_of(POLICY)) != [] and len(world.live.processes()) < 2, "an end")
    (world.folder / "rules" / name_of(POLICY) / "end").unlink()

    def started() -> bool:
        world.clock.now += 1  # whatever it waits for before another try
        return world.active() == POLICY.artifact.digest

    until(started, "another start")
    assert len(world.pids(name_of(POLICY))) > 1
    assert world.observe().trouble is None


def test_a_port_that_is_taken_is_named_with_its_field(world: World) -> None:
    message = rf"port {world.port} is taken; .*spec\.gateway\.port"
    with socket.create_server(("", world.port)), pytest.raises(PortTakenError, match=message):
        world.live.carry_out(LiveIntent(POLICY))
    assert world.live.processes() == []


def test_in_the_end_the_gateway_flushes_before_the_servers_end(world: World) -> None:
    world.live.carry_out(LiveIntent(POLICY))
    until(lambda: world.active() is not None, "a report")
    pids = [*world.pids("gateway"), *world.pids(name_of(POLICY))]
    world.live.end(30.0)
    assert (world.folder / "flushed").exists()
    assert not any(map(alive, pids))
    assert read_address(world.folder.parent) is None


class Listener:
    """Remembers what happens; answers for a candidate that waits for it, if it is told to."""

    def __init__(self, answer: str = "", folder: Path | None = None) -> None:
        self.events: list[Event] = []
        self.urls: list[str] = []
        self._answer, self._folder = answer, folder

    def event(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, status: RunStatus, job: Path | None, live: ObservedLive | None) -> None:
        last = status.iterations[-1] if status.iterations else None
        if self._answer and job is None and last is not None and last.decision is not None and last.promoted is None:
            answer, self._answer = self._answer, ""
            assert main([answer, str(self._folder)]) == 0

    def listening(self, url: str) -> None:
        self.urls.append(url)

    def stopping(self) -> None:
        pass


def live_run_of(iterations: int, strategy: str = "Canary") -> IterativePPORun:
    return make_run(
        iterations={"max": iterations},
        policy={"base": "tiny:d1", "systemPrompt": "x"},
        warmStart={"conversations": "file:///nowhere.jsonl"},
        collect={"logged": {}},
        gateway={"port": free_port()},
        serve={"engine": "Transformers", "strategy": strategy},
    )


def drive(folder: RunFolder, run: IterativePPORun, listener: Listener) -> RunStatus:
    """To its end, which has to be a good one."""
    with folder.lock(), Signals() as signals:
        stands = Runner(folder, listener, signals, live_launcher(), slots=2, interval=0.02).run(run)
    assert stands is not None
    assert stands.name == "Succeeded", [event.message for event in listener.events]
    status = folder.read().status
    assert status is not None
    return status


def test_a_run_learns_from_live_customers_tests_its_candidates_and_leaves_nothing_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    folder, listener, run = RunFolder(tmp_path / "out"), Listener(), live_run_of(2)
    status = drive(folder, run, listener)
    assert [row.promoted for row in status.iterations] == [None, True, True]
    assert [event.reason for event in listener.events].count("CanaryStarted") == 2
    assert run.spec.gateway is not None
    assert listener.urls == [f"http://localhost:{run.spec.gateway.port}"]
    starts = {path.name: len(path.read_text().split()) for path in (folder.live / "starts").iterdir()}
    assert starts == dict.fromkeys(starts, 1), "nothing was started twice"
    assert len(starts) == 4, "three policies and a gateway"
    pids = [int(pid) for path in (folder.live / "starts").iterdir() for pid in path.read_text().split()]
    assert not any(map(alive, pids))
    assert (folder.live / "flushed").exists()


@pytest.mark.parametrize("strategy", ["Canary", "Surge"])
@pytest.mark.parametrize(("answer", "promoted"), [("approve", True), ("reject", False)])
def test_a_human_answers_in_an_a_b_test_or_without_one_while_customers_are_served(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    promoted: bool,
    strategy: str,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    folder = RunFolder(tmp_path / "out")
    folder.live.mkdir(parents=True)
    (folder.live / "undecided").touch()
    status = drive(folder, live_run_of(1, strategy), Listener(answer, folder.path))
    assert status.iterations[-1].promoted is promoted
    assert "the `ippo run` that is at work takes it up" in capsys.readouterr().out
    spec = folder.read().spec
    assert (spec.promotion.approve, spec.promotion.reject) == ((1, None) if promoted else (None, 1))
    assert not (folder.path / "answer.json").exists()


def test_keys_are_the_gateways_and_a_gateway_that_is_to_have_some_never_goes_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, keys = tmp_path / "run.yaml", tmp_path / "keys"

    def started(spec: dict[str, object], *more: str) -> str:
        run = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "x"}, "spec": spec}
        manifest.write_text(json.dumps(run))
        assert main(["run", "-f", str(manifest), "--out", str(tmp_path / "out"), *more]) == 64
        return capsys.readouterr().err

    simulated = make_run().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    live = simulated | {
        "warmStart": {"conversations": "file:///x.jsonl"},
        "collect": {"logged": {}},
        "serve": {},
        "gateway": {"keysSecretName": "shop-keys"},
    }
    assert "spec.gateway.keysSecretName names a Secret, shop-keys" in started(live)
    assert "--keys: there is no file" in started(live, "--keys", str(keys))
    assert "--keys is for runs with spec.collect.logged" in started(simulated, "--keys", str(keys))
