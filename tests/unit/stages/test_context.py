"""Stages with contexts and messages of tools: what a policy has learnt to read, what is refused, what is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.turns import read_turns
from ippo_trainer.environments import load
from ippo_trainer.environments.catalogue.rules import PRODUCTS
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.evaluation.transcripts import transcripts
from ippo_trainer.report.model import Transcripts
from ippo_trainer.stages import warm_start
from ippo_trainer.store.artifact import fetch
from ippo_trainer.text.markers import TOOL

from .test_warm_start import context, published

SHOP = params.EnvironmentSpec(name="catalogue-shop")


def write_log(path: Path, **fields: Any) -> Path:
    messages = [
        {"role": "user", "content": "is there tea"},
        {"role": "tool", "content": {"stock": 3}},
        {"role": "assistant", "content": "yes there is"},
    ]
    lines = ({"id": number, "messages": messages, "outcome": number % 2 == 0, **fields} for number in range(40))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def prompt_file(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "prompt.json").read_text())
    return value


def test_a_warm_start_says_what_the_policy_learnt_to_read(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", context={"name": "Ana"})
    ctx = context(tmp_path, log, policy={"history_format": "Plain"})
    folder = published(ctx, warm_start.run(ctx), tmp_path / "policy")
    assert prompt_file(folder)["reads"] == ["context", "tools"]
    assert prompt_file(folder)["historyFormat"] == "Plain"
    assert TOOL in (folder / "tokenizer.json").read_text()


def test_a_system_prompt_that_the_log_repeats_is_no_context(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", context="Sell.")
    ctx = context(tmp_path, log, policy={"system_prompt": "Sell."})
    folder = published(ctx, warm_start.run(ctx), tmp_path / "policy")
    assert prompt_file(folder)["reads"] == ["tools"]


def test_contexts_that_fit_into_no_prompt_are_refused_before_the_training(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", context="so many words " * 200)
    with pytest.raises(BadDataError, match=r"contexts of 40 of 40 conversations .*maxPromptTokens = 128\. Raise"):
        warm_start.run(context(tmp_path, log))


def test_a_simulators_contexts_reach_the_policy_and_the_data(small_world: Any) -> None:
    start = params.WarmStart(demonstrations=60, epochs=1, batch_size=16)
    policy = params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=128)
    shop = {"environment": SHOP, "policy": policy}
    warm = small_world.result(small_world.spec("warm-start", {}, iteration=0, warm_start=start, **shop))
    fetch(small_world.store, warm.artifacts["policy"], small_world.folder / "policy", "policy")
    assert prompt_file(small_world.folder / "policy")["reads"] == ["context"]
    settings = params.Collect(conversations=8, parallelism=1)
    collected = small_world.result(small_world.spec("collect", warm.artifacts, collect=settings, **shop))
    fetch(small_world.store, collected.artifacts["data"], small_world.folder / "data", "data")
    conversations = read_turns(sorted((small_world.folder / "data").glob("*.parquet")))
    assert {each.context for each in conversations} <= {f"on offer: {product}" for product in PRODUCTS}
    assert len(conversations) == 8


def test_a_context_of_a_simulator_that_fits_into_no_prompt_ends_the_stage(small_world: Any, tmp_path: Path) -> None:
    file = tmp_path / "wordy.py"
    file.write_text(
        "class Wordy:\n"
        "    max_turns = 1\n"
        "    def reset(self, seeds):\n"
        "        return [{'customer_message': 'hi', 'context': 'so many words ' * 400} for _ in seeds]\n"
        "    def step(self, suggestions):\n"
        "        return [{'reaction': 'rejected', 'sent_message': 'x', 'customer_message': None, 'outcome': False}]\n"
    )
    inputs = {"policy": small_world.put_policy()}
    settings = params.Collect(conversations=2, parallelism=1)
    environment = params.EnvironmentSpec(name=f"{file}:Wordy")
    code, message = small_world.run(small_world.spec("collect", inputs, collect=settings, environment=environment))
    assert code == BadDataError.exit_code
    assert "context makes a prompt of at least" in json.dumps(message)
    assert "policy.maxPromptTokens = 256" in json.dumps(message)


def test_transcripts_show_what_was_given() -> None:
    conversations = demonstrate(load(SHOP), range(8), "catalogue-shop")
    conversations[0].turns[0].tool_messages = ("stock: 3",)
    spoken = transcripts(conversations, conversations, range(8))
    assert spoken["candidate"][0]["context"] == conversations[0].context
    shown = Transcripts.model_validate_json(json.dumps(spoken)).current[0]
    assert (shown.context, shown.turns[0].tools) == (conversations[0].context, ["stock: 3"])
    conversations[1].context = ""
    assert "context" not in transcripts(conversations, conversations, range(8))["candidate"][1]
    assert "tools" not in transcripts(conversations, conversations, range(8))["candidate"][1]["turns"][0]
