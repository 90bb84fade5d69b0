"""A log in place of a simulator: collect takes it, and the stages after it learn from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import read_turns
from ippo_trainer.stages import history
from ippo_trainer.stages.logged import read_logged
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.store.artifact import fetch, read_manifest


def write_log(path: Path, conversations: list[Conversation], **fields: Any) -> Path:
    """As a company would export them; every third message of the business is a bot's."""
    lines = []
    for conversation in conversations:
        messages: list[dict[str, Any]] = []
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn.customer_message})
            reply = {"role": "assistant", "content": turn.sent_message}
            messages.append(reply | {"suggestion": turn.suggestion, "reaction": turn.reaction})
        line = {"conversation_id": conversation.id, "messages": messages, "outcome": conversation.outcome}
        lines.append(json.dumps(line | fields) + "\n")
    path.write_text("".join(lines))
    return path


def spec_of(world: Any, log: Path, stage: str = "collect", **sections: Any) -> StageSpec:
    settings = {name: sections.pop(name) for name in ("outcomes", "window", "writers") if name in sections}
    section = params.LogHistory(conversations=f"file://{log}", **settings)
    inputs = {"policy": world.policy or world.put_policy(1)}
    return world.spec(
        stage, inputs, history=section, **({"environment": None} if stage == "collect" else {}), **sections
    )


def result_of(world: Any, spec: StageSpec) -> StageResult:
    code, message = world.run(spec)
    assert code == 0, message
    return StageResult.model_validate_json(json.dumps(message))


def data_of(world: Any, result: StageResult, name: str = "fetched") -> list[Conversation]:
    fetch(world.store, result.artifacts["data"], world.folder / name, "data")
    return read_turns(sorted((world.folder / name).glob("*.parquet")))


def test_it_takes_the_logs_conversations_with_their_outcomes(small_world: Any) -> None:
    held = small_world.demonstrations(40)
    result = result_of(small_world, spec_of(small_world, write_log(small_world.folder / "log.jsonl", held)))
    data = data_of(small_world, result)
    assert [found.id for found in data] == [found.id for found in held]
    assert [found.outcome for found in data] == [found.outcome for found in held]
    for logged, original in zip(data, held, strict=True):
        assert [(t.customer_message, t.suggestion, t.reaction, t.sent_message) for t in logged.turns] == [
            (t.customer_message, t.suggestion, t.reaction, t.sent_message) for t in original.turns
        ]
        assert {(turn.behaviour, turn.writer) for turn in logged.turns} == {("log", "people")}
    turns = sum(len(found.turns) for found in held)
    assert result.metrics["conversations"] == 40
    assert result.metrics["success"] == sum(found.outcome for found in held) / 40
    assert result.metrics["meanTurns"] == turns / 40
    assert read_manifest(small_world.store, result.artifacts["data"]).metadata["writers"] == {"people": turns}


def test_outcomes_of_a_second_file(small_world: Any) -> None:
    held = small_world.demonstrations(20)
    log = write_log(small_world.folder / "log.jsonl", held, outcome=None)
    orders = small_world.folder / "orders.csv"
    orders.write_text("conversation_id\n" + "".join(f"{found.id}\n" for found in held[:7]))
    result = result_of(small_world, spec_of(small_world, log, outcomes=f"file://{orders}"))
    assert [found.outcome for found in data_of(small_world, result)] == [True] * 7 + [False] * 13
    orders.write_text("conversation_id\nnobody\n")
    small_world.store.delete("iterations/0001/collect/result.json")
    code, message = small_world.run(spec_of(small_world, log, outcomes=f"file://{orders}"))
    assert code == 65
    assert "no conversation_id of the log is in orders.csv" in message["error"]["message"]


def test_all_that_is_wrong_comes_at_once(small_world: Any) -> None:
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(5))
    orders = small_world.folder / "orders.csv"
    orders.write_text("conversation_id,outcome\n" + "".join(f"demonstration-{n:07d},true\n" for n in range(5)))
    with log.open("a") as file:
        file.write("{\n")
    code, message = small_world.run(spec_of(small_world, log, outcomes=f"file://{orders}"))
    assert code == 65
    assert "is not JSON" in message["error"]["message"]
    assert "outcome of conversation" in message["error"]["message"]


def test_a_log_of_one_class_is_told(small_world: Any) -> None:
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(5), outcome=False)
    result = result_of(small_world, spec_of(small_world, log))
    assert any("no finished conversation has the outcome" in text for text in result.warnings or ())


@pytest.mark.parametrize("number", [4, 6, 9])
def test_killed_it_goes_on_and_ends_with_the_same_bytes(
    small_world: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PIECE_TURNS", 20)
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(40))
    spec = spec_of(small_world, log)
    small_world.kill_at_put(spec, number)
    resumed = result_of(small_world, spec)
    for found in list(small_world.store.list("iterations")):
        small_world.store.delete(found.key)
    assert result_of(small_world, spec).artifacts == resumed.artifacts


def test_the_stages_after_it_take_the_writers_turns_for_the_policys_own(small_world: Any) -> None:
    """A bot held half of the conversations, and people the rest; the policy imitates the people."""
    held = small_world.demonstrations(40)
    people = write_log(small_world.folder / "people.jsonl", held[:20]).read_text()
    bot = write_log(small_world.folder / "bot.jsonl", held[20:], writer="bot").read_text()
    log = small_world.folder / "log.jsonl"
    log.write_text(people + bot)
    data = result_of(small_world, spec_of(small_world, log)).artifacts["data"]

    def own(**settings: Any) -> list[str]:
        spec = spec_of(small_world, log, "fit-q", **settings)
        spec = spec.model_copy(update={"inputs": {**spec.inputs, "data": data}})
        folder = small_world.folder / f"work-{len(list(small_world.folder.iterdir()))}"
        folder.mkdir()
        return [found.id for found in read_logged(StageContext(spec, small_world.store, folder))]

    assert own() == [found.id for found in held]
    assert own(writers=("people",)) == [found.id for found in held[:20]]
    assert own(writers=("bot", "people")) == [found.id for found in held]
    with pytest.raises(Exception, match=r"writers began none of the 40.*'bot' .*'people'"):
        own(writers=("nobody",))


def test_without_an_environment_logged_states_are_the_evidence(small_world: Any) -> None:
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(40))
    first = spec_of(small_world, log)
    data = result_of(small_world, first).artifacts["data"]
    policy = first.inputs["policy"]
    inputs = {"data": data, "q": small_world.put_q(policy), "policy": policy}

    def evaluated(candidate: Any, seed: int, **gate: Any) -> StageResult:
        section = params.Evaluate(gate=params.Gate(**gate))
        spec = spec_of(small_world, log, "evaluate", evaluate=section, environment=None)
        update = {"inputs": {**inputs, "candidate": candidate}, "seed": seed}
        result = result_of(small_world, spec.model_copy(update=update))
        for found in list(small_world.store.list("iterations/0001/evaluation")):
            small_world.store.delete(found.key)
        return result

    same = evaluated(policy, 1)
    assert (same.metrics["heldOutQLift"], same.metrics["kl"]) == (0.0, 0.0)
    assert (same.metrics["offPolicyLift"], same.metrics["offPolicyLiftLow"]) == (0.0, 0.0)
    assert same.metrics["offPolicyValue"] == same.metrics["offPolicyValueCurrent"]
    assert same.decision is not None
    assert same.decision.outcome == "Reject"
    other = evaluated(small_world.put_policy(2, "other"), 2)
    assert other.metrics["heldOutQLiftLow"] < other.metrics["heldOutQLift"] < other.metrics["heldOutQLiftHigh"]
    assert other.metrics["kl"] > 0
    lift = other.metrics["offPolicyValue"] - other.metrics["offPolicyValueCurrent"]
    assert other.metrics["offPolicyLift"] == pytest.approx(lift)
    assert other.metrics["offPolicyLiftLow"] <= lift <= other.metrics["offPolicyLiftHigh"]
    assert "value by fitted Q evaluation" in other.decision.reason  # type: ignore[union-attr]
    assert other.decision is not None
    assert "E[Q] per logged state changes by" in other.decision.reason
    assert "nothing simulated" in other.decision.reason
    far = evaluated(small_world.put_policy(2, "far"), 3, max_kl="0.000001")
    assert far.decision is not None
    assert "more than maxKl" in far.decision.reason
