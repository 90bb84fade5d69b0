"""The warm start: it learns a log, ends the same however often it is killed, and says what is wrong with a log."""

import json
import logging
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StoppedError
from ippo_trainer.contract.spec import StageResult, StageSpec, StoreLocation
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.turns import write_turns
from ippo_trainer.models.load import build_tiny, load_policy, save_policy
from ippo_trainer.sft.trainer import SupervisedFit
from ippo_trainer.stages import warm_start
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.store import artifact, open_store
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer
from ippo_trainer.training import cadence
from safetensors.torch import save_file

LINES = ["which colour would you like", "shall i wrap a bouquet for you", "lovely weather today"]


def write_log(path: Path, count: int = 60) -> Path:
    rng = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            messages = [{"role": "user", "content": "hello i need flowers"}]
            for _ in range(rng.randint(1, 3)):
                messages.append({"role": "assistant", "content": rng.choice(LINES)})
                messages.append({"role": "user", "content": rng.choice(["red please", "hm"])})
            line = {"conversation_id": f"c{number}", "messages": messages, "outcome": number % 3 == 0}
            file.write(json.dumps(line) + "\n")
    return path


def context(folder: Path, log: Path | None, name: str = "run", **changes: Any) -> StageContext:
    policy = {"base": "tiny:d16-l1", "max_prompt_tokens": 128} | changes.pop("policy", {})
    start = {"batch_size": 8, "epochs": 2, "conversations": f"file://{log}"} | changes.pop("start", {})
    spec = StageSpec(
        **{
            "stage": "warm-start",
            "run": "test",
            "iteration": 0,
            "seed": 7,
            "threads": 1,
            "device": "cpu",
            "discount": "0.95",
            "store": StoreLocation(directory=str(folder / name)),
            "policy": params.Policy(**policy),
            "warm_start": None if log is None and "demonstrations" not in start else params.WarmStart(**start),
        }
        | changes
    )
    torch.set_num_threads(1)
    return StageContext(spec, open_store(spec.store), Path(tempfile.mkdtemp(dir=folder)))


def published(ctx: StageContext, result: StageResult, folder: Path) -> Path:
    artifact.fetch(ctx.store, result.artifacts["policy"], folder, "policy")
    return folder


def test_new_suggestions_are_measured_before_they_are_learnt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In one pass every row is new; a policy that learnt hardly anything does not imitate, and is told so."""
    log = write_log(tmp_path / "log.jsonl", 400)
    start = {"epochs": 1, "batch_size": 4, "learning_rate": "0.01"}
    good = warm_start.run(context(tmp_path, log, start=start, policy={"base": "tiny:d32-l1"}))
    assert good.metrics["heldOutPerplexity"] == pytest.approx(math.exp(1.0986 / 5.33), rel=0.15)
    assert "does not imitate" not in caplog.text
    bad = warm_start.run(
        context(tmp_path, log, start=start | {"learning_rate": "0.0000001"}, policy={"base": "tiny:d32-l1"})
    )
    assert bad.metrics["heldOutPerplexity"] > 2 * good.metrics["heldOutPerplexity"]
    assert "does not imitate these writers" in caplog.text


def test_it_learns_what_the_business_writes(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 200)
    start = {"epochs": 8, "learning_rate": "0.01"}
    ctx = context(tmp_path, log, start=start, policy={"base": "tiny:d32-l1", "system_prompt": "you sell flowers"})
    result = warm_start.run(ctx)
    assert result.metrics["conversations"] == 200
    # Three lines of 5, 7 and 4 tokens with the end, equally likely: ln(3) nats a line.
    assert result.metrics["loss"] < 1.3 * 1.0986 / 5.33 + 0.05
    assert result.metrics["unended"] < 0.1
    directory = published(ctx, result, tmp_path / "policy")
    policy = load_policy(directory)
    render = Renderer.load(directory, policy.tokenizer)
    assert render.system_prompt == "you sell flowers"
    prompt = render.prompt([], "hello i need flowers").ids
    with torch.no_grad():
        said = policy.model.generate(
            torch.tensor([prompt] * 64), do_sample=True, max_new_tokens=12, pad_token_id=policy.tokenizer.pad_token_id
        )
    suggestions = [render.decode(row[len(prompt) :].tolist()) for row in said]
    assert sum(ended and text in LINES for text, ended in suggestions) >= 58
    assert {text for text, _ in suggestions} >= set(LINES)
    value = json.loads((directory / "training.json").read_text())
    assert value["kind"] == "warm-start"
    assert value["curves"][0]["loss"] > 4 > 0.6 > value["curves"][-1]["loss"]
    assert policy.model.config.use_cache


class Killed(BaseException):
    """Stands for SIGKILL: no stage code may catch it."""


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_any_step_and_resumed_it_ends_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    log = write_log(tmp_path / "log.jsonl")
    expected = warm_start.run(context(tmp_path, log, "whole", threads=threads))
    steps = int(expected.metrics["updates"])
    monkeypatch.setattr(cadence, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(cadence, "SAVING_SHARE", float("inf"))
    before, saves = StageContext.save_checkpoint, 0

    def save_and_die(self: StageContext, directory: Path, step: int) -> None:
        nonlocal saves
        before(self, directory, step)
        saves += 1
        if saves in (1, 4, 5, 9):
            raise Killed

    monkeypatch.setattr(StageContext, "save_checkpoint", save_and_die)
    kills = 0
    while True:
        try:
            result = warm_start.run(context(tmp_path, log, "killed", threads=threads))
            break
        except Killed:
            kills += 1
    assert kills == 4
    assert saves == steps  # every step was done exactly once
    assert result.artifacts == expected.artifacts
    assert result.metrics == expected.metrics


def test_told_to_stop_it_saves_and_the_next_attempt_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path / "log.jsonl")
    expected = warm_start.run(context(tmp_path, log, "whole"))
    ctx = context(tmp_path, log, "stopped")
    update = SupervisedFit._update

    def stop_at_three(fit: SupervisedFit, rows: int) -> float:
        if fit.steps == 2:
            ctx.stop.signal = "SIGTERM"
        return update(fit, rows)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedFit, "_update", stop_at_three)
        with pytest.raises(StoppedError, match="stopped by SIGTERM"):
            warm_start.run(ctx)
    assert context(tmp_path, log, "stopped").load_checkpoint(tmp_path / "found") == 3
    assert warm_start.run(context(tmp_path, log, "stopped")).artifacts == expected.artifacts


def test_equal_specs_make_equal_artifacts_and_another_seed_another(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 20)
    first, again, other = (
        warm_start.run(context(tmp_path, log, name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.artifacts == again.artifacts
    assert first.artifacts != other.artifacts


def test_demonstrations_of_the_environment(tmp_path: Path) -> None:
    start = {"conversations": None, "demonstrations": 40, "epochs": 1}
    environment = params.EnvironmentSpec(name="sr-funnel")
    ctx = context(tmp_path, None, start=start, environment=environment, policy={"max_prompt_tokens": 256})
    result = warm_start.run(ctx)
    assert result.metrics["conversations"] == 40
    directory = published(ctx, result, tmp_path / "policy")
    assert Renderer.load(directory, load_policy(directory).tokenizer).system_prompt


def base(folder: Path) -> tuple[Path, Any]:
    """A model directory such as a user brings."""
    tokenizer = build_tokenizer(LINES * 3 + ["hello i need flowers red please"] * 3)
    model = build_tiny("tiny:d16-l1", tokenizer, 5)
    save_policy(folder, model, tokenizer, Renderer(tokenizer, "", 64))
    return folder, model


def test_without_a_warm_start_the_base_is_taken_as_it_is(tmp_path: Path) -> None:
    directory, model = base(tmp_path / "base")
    ctx = context(tmp_path, None, policy={"base": f"file://{directory}", "system_prompt": "you sell"})
    result = warm_start.run(ctx)
    assert result.metrics == {}
    loaded = load_policy(published(ctx, result, tmp_path / "policy"))
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert json.loads((tmp_path / "policy" / "training.json").read_text()) == {"kind": "warm-start", "curves": []}
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "policy").glob("*.json"))


def test_a_base_of_ones_own_is_trained_on(tmp_path: Path) -> None:
    directory, model = base(tmp_path / "base")
    ctx = context(tmp_path, write_log(tmp_path / "log.jsonl", 20), policy={"base": f"file://{directory}"})
    loaded = load_policy(published(ctx, warm_start.run(ctx), tmp_path / "policy"))
    assert len(loaded.tokenizer) == model.config.vocab_size
    assert not torch.equal(loaded.model.lm_head.weight, model.lm_head.weight)


def test_accumulated_micro_batches_train_as_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path / "log.jsonl", 30)
    whole, pieces = context(tmp_path, log, "whole"), context(tmp_path, log, "pieces")
    first = warm_start.run(whole)
    monkeypatch.setattr("ippo_trainer.models.budget.WARM_START_BYTES", 1 << 19)
    second = warm_start.run(pieces)
    a, b = (
        load_policy(published(ctx, result, tmp_path / f"policy-{i}")).model.state_dict()
        for i, (ctx, result) in enumerate(((whole, first), (pieces, second)))
    )
    assert second.metrics["updates"] == first.metrics["updates"]
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-4)


def test_long_conversations_are_named_and_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = write_log(tmp_path / "log.jsonl", 20)
    with log.open("a") as file:
        messages = [{"role": role, "content": "red please"} for _ in range(20) for role in ("user", "agent")]
        messages[-1]["content"] = " ".join(LINES * 2)
        file.write(json.dumps({"conversation_id": "endless", "messages": messages, "outcome": True}) + "\n")
    with caplog.at_level(logging.WARNING):
        result = warm_start.run(context(tmp_path, log, start={"epochs": 1}))
    assert result.metrics["conversations"] == 21
    texts = [record.getMessage() for record in caplog.records]
    assert result.metrics["unended"] > 0.1  # one epoch of 21 conversations teaches nothing
    assert any("do not end within policy.maxNewTokens = 16" in t and "train it longer" in t for t in texts)
    assert any("1 of 21" in t and "maxPromptTokens = 128" in t and "'endless'" in t for t in texts)
    assert any("1 of 21" in t and "maxNewTokens = 16" in t and "'endless'" in t for t in texts)


def too_long(log: Path) -> None:
    with log.open("a") as file:
        huge = "hm " * 500
        turns = [("hello", LINES[0]), (huge, LINES[1]), ("red please", LINES[0]), ("hm", LINES[2])]
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "agent"), turn, strict=True)
        ]
        messages[3] |= {"suggestion": LINES[1], "reaction": "edited", "content": huge}
        file.write(json.dumps({"conversation_id": "huge", "messages": messages, "outcome": True}) + "\n")


@pytest.mark.parametrize(
    ("choice", "what"), [(None, "are not learnt"), ("Skip", "are not learnt"), ("Truncate", "are cut")]
)
def test_one_endless_message_does_not_refuse_a_log(choice: Any, what: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 20)
    too_long(log)
    ctx = context(tmp_path, log, start={"epochs": 1, "on_too_long": choice})
    result = warm_start.run(ctx)
    assert result.metrics["conversations"] == 21
    (warning,) = [text for text in ctx.warnings if "too long" in text]
    assert warning.startswith("1 of ")
    assert f"turns are too long and {what} (conversation 'huge', turn 1)." in warning
    assert "maxPromptTokens = 128" in warning
    assert warning.endswith("changes that")


def test_a_suggestion_beyond_the_models_positions_is_left_out_or_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ippo_trainer.models.load._TINY_POSITIONS", 160)
    log = write_log(tmp_path / "log.jsonl", 20)
    with log.open("a") as file:
        said = [{"role": "user", "content": "hello"}, {"role": "agent", "content": "hm " * 300}]
        file.write(json.dumps({"conversation_id": "a", "messages": said, "outcome": True}) + "\n")
    tokens = {}
    for choice in ("Skip", "Truncate"):
        ctx = context(tmp_path, log, choice, start={"epochs": 1, "on_too_long": choice})
        tokens[choice] = warm_start.run(ctx).metrics["tokens"]
        assert any("its suggestion has" in text and "fit behind the prompt" in text for text in ctx.warnings)
    assert 100 < tokens["Truncate"] - tokens["Skip"] < 160


def test_a_base_that_never_met_the_notes_is_said(tmp_path: Path) -> None:
    directory, _ = base(tmp_path / "base")
    ctx = context(tmp_path, None, "a policy of a run", policy={"base": f"file://{directory}"})
    warm_start.run(ctx)
    assert ctx.warnings == []
    (directory / "prompt.json").unlink()
    ctx = context(tmp_path, None, policy={"base": f"file://{directory}"})
    warm_start.run(ctx)
    assert any("no warmStart" in text and "[accepted]" in text for text in ctx.warnings)
    ctx = context(tmp_path, write_log(tmp_path / "log.jsonl", 20), "other", policy={"base": f"file://{directory}"})
    warm_start.run(ctx)
    assert not any("no warmStart" in text for text in ctx.warnings)


def test_a_log_of_one_class_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = write_log(tmp_path / "log.jsonl", 12)
    rows = [json.loads(line) | {"outcome": False} for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        warm_start.run(context(tmp_path, log, start={"epochs": 1}))
    assert any("log.jsonl: no conversation has the outcome" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (None, r"warmStart.conversations: there is no file"),
        ("", r"no conversations"),
        ('{"conversation_id": "c", "messages": [], "outcome": NaN}', r"log.jsonl, line 1 holds NaN"),
        (
            '{"conversation_id": "c", "messages": [{"role": "user", "content": ""}]}',
            r"line 1: messages\[0\].content is empty",
        ),
        (
            json.dumps(
                {
                    "conversation_id": "long",
                    "messages": [{"role": "user", "content": "hm " * 500}, {"role": "agent", "content": "yes"}],
                }
            ),
            r"conversation 'long', turn 0: .*maxPromptTokens = 128",
        ),
    ],
)
def test_bad_logs(line: str | None, message: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    if line is not None:
        log.write_text(line + "\n")
    with pytest.raises(BadDataError, match=message) as caught:
        warm_start.run(context(tmp_path, log))
    assert caught.value.remedy


def test_bad_specs(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 3)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start": {"demonstrations": 3}}, "exactly one of conversations and demonstrations"),
        ({"start": {"conversations": None, "demonstrations": 3}}, "needs an environment"),
        ({"start": {"conversations": "hf://a/b"}}, "warmStart.conversations 'hf://a/b' is no file:// or s3:// address"),
        ({"policy": {"base": "hf://a/b"}}, "policy.base 'hf://a/b' is no file:// or s3:// address"),
        ({"warm_start": None}, "no words of its own"),
        ({"policy": {"max_prompt_tokens": 100000}}, "exceed the model's"),
    ]
    for changes, message in cases:
        with pytest.raises(BadSpecError, match=message):
            warm_start.run(context(tmp_path, log, **changes))


def test_a_diverging_loss_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path / "log.jsonl", 10)
    real = SupervisedFit._loss_sum
    monkeypatch.setattr(SupervisedFit, "_loss_sum", lambda fit, rows: real(fit, rows) * float("nan"))
    with pytest.raises(BadDataError, match=r"loss of the warm start is nan at step 0. Lower warmStart.learningRate"):
        warm_start.run(context(tmp_path, log))


def test_a_checkpoint_of_release_0_2_is_left_alone_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = write_log(tmp_path / "log.jsonl", 20)
    expected = warm_start.run(context(tmp_path, log, "new"))
    ctx, old = context(tmp_path, log, "old"), tmp_path / "checkpoint"
    old.mkdir()
    save_file({"weight/model.norm.weight": torch.ones(16)}, old / "state.safetensors")
    (old / "losses.json").write_text("[1.0, 2.0]")
    ctx.save_checkpoint(old, 2)
    with caplog.at_level(logging.WARNING):
        assert warm_start.run(ctx).artifacts == expected.artifacts
    (line,) = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    assert line == "the checkpoint after 2 updates is of another release of the trainer: starting over"


def test_what_was_never_displayed_is_not_imitated(tmp_path: Path) -> None:
    turns = [
        [
            Turn("hello", "never say this", "rejected", "good day", displayed=False),
            Turn("red please", "here you are", "accepted", "here you are"),
        ]
        for _ in range(12)
    ]
    log = tmp_path / "log.parquet"
    write_turns(log, [Conversation(f"c{index}", each) for index, each in enumerate(turns)])
    ctx = context(tmp_path, log)
    result = warm_start.run(ctx)
    assert "12 of 24 suggestions were never displayed: they are not imitated" in ctx.warnings
    renderer = Renderer.load(folder := published(ctx, result, tmp_path / "policy"), load_policy(folder).tokenizer)
    assert result.metrics["tokens"] == 12 * len(renderer.response("here you are"))
    for turn in (turn for each in turns for turn in each):
        turn.displayed = False
    write_turns(log, [Conversation(f"c{index}", each) for index, each in enumerate(turns)])
    with pytest.raises(BadDataError, match="none of the 24 suggestions was displayed"):
        warm_start.run(context(tmp_path, log, "other"))
