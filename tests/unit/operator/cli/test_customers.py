"""What commands say of runs that wait for customers."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from ippo_operator.cli.decide.answers import answer
from ippo_operator.cli.folders import open_folder
from ippo_operator.cli.run_view import now
from ippo_operator.local.folder import RunFolder

from tests.kit.ippo_command import Ippo
from tests.kit.live_world import LiveCluster, make_live_run
from tests.kit.planner_world import changed, status


def folder_of(world: LiveCluster, path: Path) -> str:
    """A folder with the run as it is; no runner is at work."""
    folder = RunFolder(path)
    with folder.lock():
        folder.begin(world.run)
    folder.write_status(status(world))
    return str(path)


@pytest.fixture
def world() -> LiveCluster:
    """A run that waits for customers, a minute ago."""
    world = LiveCluster(make_live_run(iterations={"max": 2}))
    world.now = now() - timedelta(minutes=3)
    world.go()
    return world


def test_bars_show_what_is_there_of_what_is_wanted(world: LiveCluster, tmp_path: Path, ippo: Ippo) -> None:
    assert (
        "conversations" not in ippo("status", folder_of(world, tmp_path / "a")).out.partition("\n")[2].splitlines()[2]
    )
    world.talk(25, 5)
    world.later()
    text = ippo("status", folder_of(world, tmp_path / "b")).out.splitlines()
    assert text[0].startswith("small: Waiting, 0 of 2 iterations done")
    assert "  conversations " + "█" * 6 + "░" * 18 + " 25/100" in text
    assert "  outcomes      " + "█" * 24 + " 5/5" in text
    assert any(line.startswith("  what to do (WaitingForConversations)") for line in text)
    said = json.loads(ippo("status", str(tmp_path / "b"), "--json").out)
    assert (said["phase"], said["live"]["conversations"], said["live"]["wantedConversations"]) == ("Waiting", 25, 100)


def test_a_test_shows_both_sides_and_the_bounds_of_the_lift(world: LiveCluster, tmp_path: Path, ippo: Ippo) -> None:
    world.talk(100, 5)
    world.go()
    world.later(seconds=1)
    world.shop.control, world.shop.candidate = [900, 90], [100, 20]
    world.later(seconds=61)
    text = ippo("status", folder_of(world, tmp_path)).out
    assert "  candidate       20.0%  20 of 100 conversations\n" in text
    assert "  before it       10.0%  90 of 900 conversations\n" in text
    assert "  lift          +0.1000  (+0.0100 to +0.2000, at every look)\n" in text
    [row] = [line for line in text.splitlines() if line.startswith("1  ")]
    assert "in test" in row
    row = json.loads(ippo("status", str(tmp_path), "--json").out)["iterations"][-1]
    assert row["canary"]["candidate"] == {"conversations": 100, "outcomes": 20}
    assert row["promoted"] is None


def test_a_human_who_ends_a_test_is_shown_what_it_says(world: LiveCluster, tmp_path: Path) -> None:
    world.talk(100, 5)
    world.go()
    world.later(seconds=1)
    world.shop.control, world.shop.candidate = [900, 90], [100, 20]
    world.later(seconds=61)
    change = answer(open_folder(folder_of(world, tmp_path)).view, None, approves=True)
    assert change.patch == {"promotion": {"approve": 1}}
    assert "its A/B test:" in change.question
    assert "20 of 100 conversations" in change.question


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "an A/B test of each candidate on 10% of customers, policy"),
        ({"promotion": {"mode": "Manual"}}, "an A/B test of each candidate on 10% of customers and your approval"),
        ({"serve": {"engine": "Transformers"}}, "your approval after each, policy"),
    ],
)
def test_validate_says_how_an_iteration_goes(spec: dict[str, object], words: str, tmp_path: Path, ippo: Ippo) -> None:
    run = changed(make_live_run(), **spec)
    path = tmp_path / "run.yaml"
    document = run.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    path.write_text(yaml.safe_dump(document))
    said = ippo("validate", "-f", str(path))
    assert said.code == 0, said.err
    assert f"up to 3 iterations of 100 or more live conversations, 5 or more with the outcome, {words}" in said.out


def test_plan_says_what_a_test_takes_and_that_collect_loads_no_model(tmp_path: Path, ippo: Ippo) -> None:
    path = tmp_path / "run.yaml"
    document = make_live_run().model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    path.write_text(yaml.safe_dump(document))
    said = ippo("plan", "-f", str(path))
    assert "collect" not in said.out
    assert "collect reads what the gateway logged" in said.err
    assert "the candidate has servers of its own" in said.err


def test_explain_knows_the_reasons(ippo: Ippo) -> None:
    for reason in ("WaitingForConversations", "GatewayUnreachable", "CanaryRunning", "CanaryFailed"):
        assert f"{reason}\n  means:" in ippo("explain", reason).out
