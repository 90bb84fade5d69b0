"""A log that nobody foresaw is told of alike, whoever reads it: with counts, first lines and the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params

from tests.kit.ippo_command import ippo_command
from tests.kit.odd_logs import ODD, Odd

from .conftest import SmallWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    world = SmallWorld(tmp_path_factory.mktemp("world"))
    world.put_policy(1)
    return world


def learnt_from(world: SmallWorld, log: Path, orders: Path | None) -> tuple[int, str]:
    """What the import stage says, which is never longer than a pod's message may be."""
    history = params.LogHistory(conversations=f"file://{log}", outcomes=orders and f"file://{orders}")
    assert world.policy is not None
    world.store.delete("iterations/0001/collect/result.json")
    code, message = world.run(world.spec("collect", {"policy": world.policy}, environment=None, history=history))
    assert len(json.dumps(message)) <= 4096
    said = [message["error"]["message"]] if "error" in message else message.get("warnings", [])
    return code, "\n".join(said)


def counted(figures: dict[str, Any], odd: Odd) -> int:
    """How many places have it, as programs are told."""
    kinds = [*figures["problems"]["kinds"], *figures["notices"]]
    left_out = {f"{what} {odd.remedy}": count for what, count in figures["leftOut"].items()}
    told = [(each["count"], each.get("problem") or each["notice"]) for each in kinds]
    told += [(count, what) for what, count in left_out.items()]
    return sum(count for count, text in told if odd.what.split("c0")[0] in text)


@pytest.mark.parametrize("name", ODD)
def test_it_is_told_with_count_first_line_and_remedy(
    world: SmallWorld, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ODD[name]
    log, orders = odd.write(tmp_path)
    ippo = ippo_command(capsys)
    arguments = [str(log), *(["--outcomes", str(orders)] if orders else [])]
    checked = ippo("check-log", *arguments)
    code, learnt = learnt_from(world, log, orders)
    assert (checked.code, code) == ((65, 65) if odd.wrong else (0, 0))
    for said in (checked.out + checked.err, learnt):
        assert odd.what in said
        assert odd.remedy in said
        assert odd.first in said
    if odd.count > 1:
        assert f"{odd.count} times" in learnt
    if checked.out:
        capsys.readouterr()  # what the stage printed
        assert counted(json.loads(ippo("check-log", *arguments, "--json").out), odd) == odd.count
