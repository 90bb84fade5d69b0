"""The plan of time: operations by the settings, and rates that give again what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cli.plan import DEVICES as NAMES_OF_DEVICES
from ippo_trainer.contract import params
from ippo_trainer.contract.stages import NAMES
from ippo_trainer.models.load import tiny_config
from ippo_trainer.models.sizing import BaseSize, size_of
from ippo_trainer.models.timing import DEVICES, START_SECONDS, Conversations, stage_seconds

from .test_sizing import GPU, QWEN_7B, config_in, spec_of

FUNNEL = params.EnvironmentSpec(name="sr-funnel")
POLICY = params.Policy(base="s3://models/big")
SAID = Conversations()
COLLECT = params.Collect(conversations=1000, parallelism=1)


def seconds(stage: str, size: BaseSize, device: str = "cpu", said: Conversations = SAID, **more: Any) -> float:
    spec = spec_of(stage, threads=1, environment=FUNNEL, **{"collect": COLLECT, **more})
    return stage_seconds(spec, size, DEVICES[device], None if device == "cpu" else GPU, said) - START_SECONDS


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> BaseSize:
    return size_of("s3://models/x", config_in(tmp_path_factory.mktemp("qwen"), QWEN_7B), None)


def test_the_command_knows_the_devices_of_the_table() -> None:
    assert tuple(DEVICES) == NAMES_OF_DEVICES
    assert [name for name, device in DEVICES.items() if device.measured] == ["cpu", "h100"]


@pytest.mark.parametrize("stage", NAMES)
def test_time_goes_with_the_work(stage: str, qwen: BaseSize) -> None:
    once = seconds(stage, qwen, said=Conversations(4, 200, 500, 500))
    assert once > 0
    assert seconds(stage, qwen, said=Conversations(4, 400, 500, 500)) > once
    assert seconds(stage, qwen, "h100", Conversations(4, 200, 500, 500)) < once / 50
    assert seconds(stage, qwen, "a100") > 1.2 * seconds(stage, qwen, "h100")


@pytest.mark.parametrize("algorithm", ["PPO", "MPO", "MPOThenPPO", "GRPO", "RLOO"])
def test_every_algorithm_has_its_work(algorithm: Any, qwen: BaseSize) -> None:
    few, many = (
        seconds(
            "improve", qwen, improve=params.Improve(algorithm=algorithm, updates=count, mpo=params.Mpo(epochs=count))
        )
        for count in (2, 20)
    )
    assert few < many


def test_shards_divide_a_collect_and_frozen_weights_need_no_gradients(qwen: BaseSize) -> None:
    two = seconds("collect", qwen, collect=params.Collect(conversations=1000, parallelism=2, batch_size=8))
    assert two == pytest.approx(
        seconds("collect", qwen, collect=params.Collect(conversations=500, batch_size=8, parallelism=1))
    )
    adapted = params.Policy(base="s3://models/big", adapter=params.Adapter())
    said = Conversations(collected=100)
    start = params.WarmStart(demonstrations=100, epochs=1)
    whole, own = (seconds("warm-start", qwen, warm_start=start, policy=policy) for policy in (POLICY, adapted))
    assert own == pytest.approx(whole * 2 / 3)
    assert seconds("fit-q", qwen, said=said, policy=adapted) < seconds("fit-q", qwen, said=said)


SHAPES = {
    "0.5b": (896, 24, 14, 2, 4864, 151936, 16, 384 / 181.5),
    "1.5b": (1536, 28, 12, 2, 8960, 151936, 8, 192 / 58.9),
}
"""Of tests/benchmarks/bench_gpu.py, its conversations, and seconds of an update: the table in docs/ppo.md."""


@pytest.mark.parametrize("name", SHAPES)
def test_rates_of_an_h100_give_again_what_was_measured_there(name: str, tmp_path: Path) -> None:
    width, layers, heads, groups, inner, vocabulary, batch, measured = SHAPES[name]
    config = {
        "model_type": "qwen2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    size = size_of("s3://models/x", tmp_path, None)
    policy = params.Policy(base="s3://models/x", max_prompt_tokens=328, max_new_tokens=64)

    def improve(updates: int) -> float:
        section = params.Improve(algorithm="PPO", updates=updates, batch_size=batch, critic_warmup_updates=0)
        return seconds("improve", size, "h100", Conversations(6, 328), policy=policy, improve=section)

    assert improve(2) - improve(1) == pytest.approx(measured, rel=0.25)


def test_rates_of_a_core_give_again_what_the_funnel_took_there(tmp_path: Path) -> None:
    """10,000 conversations of 84 tokens with 564 kinds, one thread, nothing else on the machine: docs/benchmarks.md."""
    size = size_of("s3://models/x", config_in(tmp_path / "tiny", tiny_config("tiny:d64-l2", 564).to_dict()), None)
    said = Conversations(4.5, 84, collected=10_000)
    policy = params.Policy(base="tiny:d64-l2", max_prompt_tokens=384)
    start = params.WarmStart(demonstrations=10_000, epochs=1, batch_size=16)
    collect = params.Collect(conversations=10_000, parallelism=1)
    fit_q = params.FitQ(epochs=2, trace_lambda="0.5")
    evaluate = params.Evaluate(conversations=2000)
    for stage, least, most in (("warm-start", 22, 27), ("collect", 21, 21), ("evaluate", 6, 9)):
        found = seconds(
            stage, size, said=said, policy=policy, warm_start=start, collect=collect, fit_q=fit_q, evaluate=evaluate
        )
        assert least / 1.5 < found < 1.5 * most, (stage, found)
