"""A log in place of a simulator: collect takes it, and the stages after it learn from it."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from ippo_trainer.contract import params
from ippo_trainer.contract.layout import SERVED
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation import logged_features
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.packing import Group, pack_batches
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.serve.app import ChatServer
from ippo_trainer.serve.settings import ServedModel
from ippo_trainer.serve.suggestion_log import SuggestionLog
from ippo_trainer.serve.transformers_engine import EngineLimits, TransformersEngine
from ippo_trainer.stages import tally, unsimulated
from ippo_trainer.stages.logged import read_logged
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import fetch, read_manifest
from ippo_trainer.text.render import Renderer

from tests.kit.chat import ask, assistant, user
from tests.unit.data.test_server_log import record


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


def test_it_takes_the_logs_conversations_with_their_outcomes(small_world: Any) -> None:
    held = small_world.demonstrations(40)
    result = small_world.result(spec_of(small_world, write_log(small_world.folder / "log.jsonl", held)))
    data = small_world.data_of(result)
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


def test_groups_of_a_log_are_counted(small_world: Any) -> None:
    held = small_world.demonstrations(12)
    first = write_log(small_world.folder / "a.jsonl", held[:8], group="web").read_text()
    second = write_log(small_world.folder / "b.jsonl", held[8:], group=7, outcome=None).read_text()
    log = small_world.folder / "log.jsonl"
    log.write_text(first + second)
    result = small_world.result(spec_of(small_world, log))
    won = sum(each.outcome for each in held[:8])
    groups = read_manifest(small_world.store, result.artifacts["data"]).metadata["groups"]
    assert groups == {"web": [8, 8, won], "7": [4, 0, 0]}
    assert [each.group for each in small_world.data_of(result)] == ["web"] * 8 + ["7"] * 4


def test_outcomes_of_a_second_file(small_world: Any) -> None:
    held = small_world.demonstrations(20)
    log = write_log(small_world.folder / "log.jsonl", held, outcome=None)
    orders = small_world.folder / "orders.csv"
    orders.write_text("conversation_id\n" + "".join(f"{found.id}\n" for found in held[:7]))
    result = small_world.result(spec_of(small_world, log, outcomes=f"file://{orders}"))
    assert [found.outcome for found in small_world.data_of(result)] == [True] * 7 + [False] * 13
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
    result = small_world.result(spec_of(small_world, log))
    assert any("no finished conversation has the outcome" in text for text in result.warnings or ())


@pytest.mark.parametrize("number", [4, 6, 9])
def test_killed_it_goes_on_and_ends_with_the_same_bytes(
    small_world: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "PIECE_TURNS", 20)
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(40))
    spec = spec_of(small_world, log)
    small_world.kill_at_put(spec, number)
    resumed = small_world.result(spec)
    for found in list(small_world.store.list("iterations")):
        small_world.store.delete(found.key)
    assert small_world.result(spec).artifacts == resumed.artifacts


def test_the_stages_after_it_take_the_writers_turns_for_the_policys_own(small_world: Any) -> None:
    """A bot held half of the conversations, and people the rest; the policy imitates the people."""
    held = small_world.demonstrations(40)
    people = write_log(small_world.folder / "people.jsonl", held[:20]).read_text()
    bot = write_log(small_world.folder / "bot.jsonl", held[20:], writer="bot").read_text()
    log = small_world.folder / "log.jsonl"
    log.write_text(people + bot)
    data = small_world.result(spec_of(small_world, log)).artifacts["data"]

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


def test_without_an_environment_logged_states_are_the_evidence(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(small_world.folder / "log.jsonl", small_world.demonstrations(40), group="web")
    first = spec_of(small_world, log)
    data = small_world.result(first).artifacts["data"]
    policy = first.inputs["policy"]
    inputs = {"data": data, "q": small_world.put_q(policy), "policy": policy}

    def evaluated(candidate: Any, seed: int, **gate: Any) -> StageResult:
        section = params.Evaluate(gate=params.Gate(**gate))
        spec = spec_of(small_world, log, "evaluate", evaluate=section, environment=None)
        update = {"inputs": {**inputs, "candidate": candidate}, "seed": seed}
        result = small_world.result(spec.model_copy(update=update))
        small_world.store.delete("iterations/0001/evaluation/result.json")
        return result

    same = evaluated(policy, 1)
    assert (same.metrics["heldOutQLift"], same.metrics["kl"]) == (0.0, 0.0)
    assert (same.metrics["offPolicyLift"], same.metrics["offPolicyLiftLow"]) == (0.0, 0.0)
    assert same.metrics["offPolicyValue"] == same.metrics["offPolicyValueCurrent"]
    assert same.decision is not None
    assert same.decision.outcome == "Reject"
    another = small_world.put_policy(2, "other")
    other = evaluated(another, 2)
    with monkeypatch.context() as patch:
        patch.setattr(logged_features, "_TURNS", 5)
        assert evaluated(another, 2).metrics == pytest.approx(other.metrics)
        patch.setattr(unsimulated, "MOST_TURNS", 8)
        assert 2 <= evaluated(another, 2).metrics["heldOutConversations"] < other.metrics["heldOutConversations"]
    assert other.metrics["heldOutQLiftLow"] < other.metrics["heldOutQLift"] < other.metrics["heldOutQLiftHigh"]
    assert other.metrics["kl"] > 0
    lift = other.metrics["offPolicyValue"] - other.metrics["offPolicyValueCurrent"]
    assert other.metrics["offPolicyLift"] == pytest.approx(lift)
    assert other.metrics["offPolicyLiftLow"] <= lift <= other.metrics["offPolicyLiftHigh"]
    assert "value by fitted Q evaluation" in other.decision.reason  # type: ignore[union-attr]
    assert other.decision is not None
    assert "E[Q] per logged state changes by" in other.decision.reason
    assert "nothing simulated" in other.decision.reason
    fetch(small_world.store, other.artifacts["evaluation"], small_world.folder / "evaluation", "evaluation")
    compared = json.loads((small_world.folder / "evaluation" / "comparisons.json").read_text())
    assert len({pair["conversation"] for pair in compared["pairs"]}) == len(compared["pairs"]) > 0
    assert all(pair["candidate"] != pair["current"] for pair in compared["pairs"])
    groups = json.loads((small_world.folder / "evaluation" / "groups.json").read_text())["groups"]
    assert groups["web"]["conversations"] == same.metrics["heldOutConversations"] < 40
    assert groups["web"]["lift"] is None  # too few
    far = evaluated(small_world.put_policy(2, "far"), 3, max_kl="0.000001")
    assert far.decision is not None
    assert "more than maxKl" in far.decision.reason


def test_what_was_served_is_what_the_next_run_learns_from(small_world: Any) -> None:
    """Serve, log, reactions and outcomes, collect.history, turns: and the stages after it read them."""
    reference = small_world.put_policy(1)
    directory = small_world.folder / "policy-to-serve"
    fetch(small_world.store, reference, directory, "policy")
    served = open_store(small_world.location.below(SERVED))
    answers = asyncio.run(_conversations(directory, reference.digest, served))
    rows: list[dict[str, Any]] = []
    for name, ids in answers.items():
        rows += [{"id": ids[-1], "reaction": "edited", "sent": "our own words"}]
        rows += [{"conversation_id": name, "outcome": int(name[1:]) % 3 == 0}]
    path = small_world.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = params.LogHistory(
        conversations=f"file://{small_world.folder}/store/served", reactions=f"file://{path}", outcomes=f"file://{path}"
    )
    spec = small_world.spec("collect", {"policy": reference}, history=section, environment=None)
    result = small_world.result(spec)
    data = {conversation.id: conversation for conversation in small_world.data_of(result)}
    assert data.keys() == answers.keys()
    assert read_manifest(small_world.store, result.artifacts["data"]).metadata["writers"] == {reference.digest: 24}
    policy = load_policy(directory)
    renderer = Renderer.load(directory, policy.tokenizer)
    for name, conversation in data.items():
        assert (conversation.outcome, conversation.censored) == (int(name[1:]) % 3 == 0, False)
        assert conversation.customer_id == f"customer of {name}"
        assert [turn.customer_message for turn in conversation.turns] == ["hello 0", "hello 1", "hello 2"]
        assert [turn.reaction for turn in conversation.turns[:2]] == ["accepted", "rejected"]
        last = conversation.turns[-1]
        assert (last.sent_message, last.reaction) == (
            "our own words",
            "rejected" if last.suggestion is None else "edited",
        )
        for number, turn in enumerate(conversation.turns):
            assert renderer.decode(turn.token_ids or [])[0] == turn.suggestion
            prompt = renderer.prompt(conversation.turns[:number], turn.customer_message).ids
            [(_, packed)] = pack_batches([Group(prompt, [turn.token_ids or []])], 1000)
            with torch.inference_mode():
                logprobs = token_logprobs(policy.model, packed).logprobs
            assert turn.sampler_logprobs == pytest.approx(logprobs.tolist(), abs=1e-3)
    assert len(read_logged_of(small_world, spec, result)) == len(data)
    inputs = {"data": result.artifacts["data"], "q": small_world.put_q(reference), "policy": reference}
    shown = {}
    for name, candidate in (("same", reference), ("other", small_world.put_policy(2, "other"))):
        sections = {"evaluate": params.Evaluate(), "history": section, "environment": None}
        spec = small_world.spec("evaluate", inputs | {"candidate": candidate}, **sections)
        metrics = small_world.result(spec).metrics
        small_world.store.delete("iterations/0001/evaluation/result.json")
        shown[name] = metrics
        lift = metrics["doublyRobustLift"]
        assert metrics["doublyRobustLiftLow"] <= lift <= metrics["doublyRobustLiftHigh"]
    assert shown["same"]["doublyRobustLift"] == 0
    # The served policy wrote all of it: every conversation counts in full, and less for another policy.
    assert shown["same"]["effectiveConversations"] == pytest.approx(shown["same"]["heldOutConversations"], rel=1e-3)
    assert 1 <= shown["other"]["effectiveConversations"] < shown["same"]["effectiveConversations"]


def read_logged_of(world: Any, spec: StageSpec, result: StageResult) -> list[Conversation]:
    """What fit-q reads of the data."""
    after = spec.model_copy(update={"stage": "fit-q", "inputs": {**spec.inputs, "data": result.artifacts["data"]}})
    (world.folder / "after").mkdir()
    return read_logged(StageContext(after, world.store, world.folder / "after"))


async def _conversations(directory: Path, digest: str, store: Any) -> dict[str, list[str]]:
    """Eight conversations of three turns; of the second suggestion the business says that it wrote something else."""
    policy = load_policy(directory)
    renderer = Renderer.load(directory, policy.tokenizer)
    engine = TransformersEngine(policy.model, EngineLimits(256, 8, 4, 64), renderer.stop_ids, 0)
    engine.start()
    chat_server = ChatServer(digest, "demo")
    chat_server.log = SuggestionLog(store, chat_server.metrics.log())
    chat_server.open(ServedModel(renderer, engine))
    ids: dict[str, list[str]] = {}
    async with TestClient(TestServer(chat_server.application())) as client:
        for number in range(8):
            name, messages = f"c{number}", list[dict[str, Any]]()
            for turn in range(3):
                messages.append(user(f"hello {turn}"))
                body = {
                    "metadata": {"conversation_id": name},
                    "user": f"customer of {name}",
                    "seed": 10 * number + turn,
                }
                answer = await ask(client, messages, **body)
                ids.setdefault(name, []).append(answer["id"])
                [choice] = answer["choices"]
                text = None if choice["abstained"] else choice["message"]["content"]
                if turn == 1 or not text:
                    messages.append(assistant("let me see", suggestion=text, reaction="rejected"))
                else:
                    messages.append(assistant(text))
    await engine.stop()
    chat_server.log.close(60)
    return ids


def test_a_folder_that_grew_while_an_import_waited_is_read_anew(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was imported before is no longer the beginning of what there is."""
    monkeypatch.setattr(tally, "PIECE_TURNS", 3)
    folder = write_segments(small_world.folder / "served", [served(f"r{n}", n) for n in range(12)])
    section = params.LogHistory(conversations=f"file://{folder}")
    policy = small_world.put_policy(1)
    spec = small_world.spec("collect", {"policy": policy}, history=section, environment=None)
    small_world.kill_at_put(spec, 9)
    write_segments(folder, [served(f"r{n}", n) for n in range(12, 15)], 2)
    result = small_world.result(spec)
    data = small_world.data_of(result)
    assert sorted(each.id for each in data) == sorted(f"c{n}" for n in range(15))
    assert any("has grown" in text for text in result.warnings or ())


def served(identifier: str, number: int) -> dict[str, Any]:
    message = user(f"hello {number}")
    named = {"conversation_id": f"c{number}", "message": message["content"]}
    return record(identifier, [message], "hi", **named)


def write_segments(folder: Path, lines: list[dict[str, Any]], number: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / f"20261127T080000Z-abcdef-{number:06d}.jsonl.gz").write_bytes(gzip.compress(body))
    return folder
