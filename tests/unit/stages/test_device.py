"""A stage computes where its spec says, or says at once that it cannot."""

from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.stages import warm_start
from ippo_trainer.stages.device import device_of

ABSENT = ArtifactRef(key="given/absent", digest="sha256:" + "0" * 64)
INPUTS = dict.fromkeys(("policy", "explorer", "candidate", "data", "q"), ABSENT)
SECTIONS: dict[str, dict[str, Any]] = {
    "warm-start": {"warm_start": params.WarmStart(demonstrations=4)},
    "collect": {"collect": params.Collect(conversations=4, parallelism=1)},
    "fit-q": {"fit_q": params.FitQ()},
    "improve": {"improve": params.Improve(algorithm="PPO")},
    "evaluate": {"evaluate": params.Evaluate()},
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("stage", SECTIONS)
def test_a_gpu_that_is_not_there_is_noticed_before_any_download(
    small_world: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "_base", lambda *_: pytest.fail("the base was downloaded"))
    code, message = small_world.run(small_world.spec(stage, INPUTS, device="cuda", **SECTIONS[stage]))
    assert (code, "there is no CUDA device here" in message["error"]["message"]) == (64, True), message


def test_auto_takes_a_gpu_where_there_is_one(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        found[there] = [device_of(small_world.spec("fit-q", {}, device=name)).type for name in ("auto", "cpu")]
    assert found == {True: ["cuda", "cpu"], False: ["cpu", "cpu"]}
