"""The stage collect as the operator runs it: shards, the join, kills and what goes wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.environments import load
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.packing import Group, pack
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.stages import collect
from ippo_trainer.stages.runtime import StageContext, run_stage
from ippo_trainer.store.artifact import read_manifest
from ippo_trainer.text.render import Renderer


def spec_of(world: Any, explorer_seed: int | None = None, **settings: Any) -> StageSpec:
    inputs = {"policy": world.put_policy(1)}
    if explorer_seed is not None:
        inputs["explorer"] = inputs["policy"] if explorer_seed == 1 else world.put_policy(explorer_seed, "explorer")
    section = params.Collect(**({"conversations": 40, "parallelism": 1, "batch_size": 16} | settings))
    return world.spec("collect", inputs, collect=section)


def run_shard(world: Any, spec: StageSpec, index: int | None = None) -> tuple[int, dict[str, Any]]:
    path, log = world.folder / "spec.json", world.folder / "termination.json"
    path.write_text(spec.model_dump_json(by_alias=True))
    log.unlink(missing_ok=True)
    code = run_stage(path, index, log, world.folder)
    return code, json.loads(log.read_bytes())


def shard(world: Any, spec: StageSpec, index: int | None = None) -> StageResult:
    code, message = run_shard(world, spec, index)
    assert code == 0, message
    return StageResult.model_validate_json(json.dumps(message))


def test_it_logs_conversations_and_says_how_they_went(small_world: Any) -> None:
    spec = spec_of(small_world)
    result = shard(small_world, spec)
    data = small_world.data_of(result)
    turns = [turn for found in data for turn in found.turns]
    made = [turn for turn in turns if turn.suggestion is not None]
    assert [found.id for found in data] == [f"i0001-{number:06d}" for number in range(40)]
    assert result.shard is not None
    assert (result.shard.index, result.shard.count, result.shard.complete) == (0, 1, True)
    metrics = result.metrics
    environment: Any = load(spec.environment)
    assert metrics["conversations"] == 40
    assert metrics["success"] == sum(found.outcome for found in data) / 40
    assert metrics["meanTurns"] == len(turns) / 40
    assert metrics["acceptance"] == sum(turn.reaction != "rejected" for turn in made) / len(made)
    assert metrics["abstention"] == pytest.approx(1 - len(made) / len(turns))
    assert metrics["exploredShare"] == 0
    assert metrics["unparsedShare"] == sum(environment.intent_of(t.suggestion) == "UNPARSED" for t in made) / len(turns)
    assert metrics["responseLength"] == sum(len(turn.token_ids or []) for turn in turns) / len(turns)
    assert 0 <= metrics["truncatedShare"] <= 1
    manifest = read_manifest(small_world.store, result.artifacts["data"])
    assert manifest.inputs == {"policy": spec.inputs["policy"].digest}
    assert [entry.path for entry in manifest.files] == [f"turns-00000-{batch:05d}.parquet" for batch in range(3)]


def test_the_logged_probabilities_are_the_policys(small_world: Any) -> None:
    spec = spec_of(small_world, temperature="0.8", conversations=10)
    data = small_world.data_of(shard(small_world, spec))
    loaded = load_policy(small_world.folder / "policy")
    renderer = Renderer.load(loaded.directory, loaded.tokenizer)
    groups, logged = [], []
    for found in data:
        for index, turn in enumerate(found.turns):
            assert turn.token_ids is not None
            assert turn.sampler_logprobs is not None
            assert renderer.decode(turn.token_ids)[0] == turn.suggestion
            assert (turn.policy_digest, turn.behaviour) == (spec.inputs["policy"].digest, "policy")
            groups.append(Group(renderer.prompt(found.turns[:index], turn.customer_message).ids, [turn.token_ids]))
            logged += turn.sampler_logprobs
    with torch.no_grad():
        expected = token_logprobs(loaded.model, pack(groups), 0.8).logprobs
    torch.testing.assert_close(torch.tensor(logged), expected, atol=1e-4, rtol=0)


def test_the_last_shard_joins_all_in_order(small_world: Any) -> None:
    spec = spec_of(small_world, parallelism=3)
    first, last, middle = (shard(small_world, spec, index) for index in (0, 2, 1))
    for partial in (first, last):
        assert partial.shard is not None
        assert not partial.shard.complete
        assert partial.artifacts == {}
    assert "1 of 3 shards are not done yet" in last.message
    assert middle.shard is not None
    assert middle.shard.complete
    data = small_world.data_of(middle)
    assert [found.id for found in data] == [f"i0001-{number:06d}" for number in range(40)]
    parts = [first.metrics["conversations"], last.metrics["conversations"]]
    assert parts == [13, 14]
    assert middle.metrics["conversations"] == 40
    assert middle.metrics["success"] == sum(found.outcome for found in data) / 40
    # How the work was divided does not change what was said.
    small_world.forget()
    alone = small_world.data_of(shard(small_world, spec_of(small_world, batch_size=64)), "alone")
    said = [[[turn.suggestion for turn in found.turns] for found in some] for some in (data, alone)]
    assert said[0] == said[1]


def test_two_shards_that_end_together_both_join_to_the_same_bytes(small_world: Any, tmp_path: Path) -> None:
    spec = spec_of(small_world, parallelism=2)
    results = []

    class Barrier:
        """A store in which the other shard's note comes between this shard's note and its look around."""

        def __init__(self, store: Any) -> None:
            self.store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def put(self, key: str, *rest: Any, **more: Any) -> None:
            self.store.put(key, *rest, **more)
            if key.endswith(collect.NOTE):
                (tmp_path / "other").mkdir()
                results.append(collect.run(StageContext(spec, self.store, tmp_path / "other", 1)))

    (tmp_path / "one").mkdir()
    results.append(collect.run(StageContext(spec, Barrier(small_world.store), tmp_path / "one", 0)))  # type: ignore[arg-type]
    assert all(result.shard is not None and result.shard.complete for result in results)
    assert results[0].artifacts == results[1].artifacts
    assert results[0].metrics == results[1].metrics


def test_a_shard_that_died_after_its_note_only_joins(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(small_world)
    expected = shard(small_world, spec)
    key = "iterations/0001/collect/shards/00000/result.json"
    small_world.store.delete(key)
    monkeypatch.setattr(collect, "_collect", None)
    assert shard(small_world, spec) == expected


def test_exploration_is_tagged_and_traced_to_the_explorer(small_world: Any) -> None:
    spec = spec_of(small_world, explorer_seed=2, exploration="0.4", conversations=120, batch_size=120)
    result = shard(small_world, spec)
    turns = [turn for found in small_world.data_of(result) for turn in found.turns]
    explored = [turn for turn in turns if turn.behaviour == "explore"]
    assert result.metrics["exploredShare"] == len(explored) / len(turns)
    assert len(explored) / len(turns) == pytest.approx(0.4, abs=0.1)
    assert {turn.policy_digest for turn in explored} == {spec.inputs["explorer"].digest}
    assert {turn.behaviour for turn in turns if turn.policy_digest == spec.inputs["policy"].digest} == {"policy"}


def test_the_first_iteration_explores_with_the_policy_itself_but_flatter(small_world: Any) -> None:
    spec = spec_of(small_world, explorer_seed=1, exploration="0.4", conversations=120, batch_size=120)
    result = shard(small_world, spec)
    turns = [turn for found in small_world.data_of(result) for turn in found.turns]
    explored = [turn for turn in turns if turn.behaviour == "explore"]
    assert result.metrics["exploredShare"] == len(explored) / len(turns) == pytest.approx(0.4, abs=0.1)
    assert {turn.policy_digest for turn in turns} == {spec.inputs["policy"].digest}


def test_exploration_can_fade_and_end(small_world: Any) -> None:
    shares = []
    for iteration in (1, 2, 3):
        spec = spec_of(small_world, 2, exploration="0.8", exploration_decay="0.5", conversations=120, batch_size=120)
        spec = spec.model_copy(update={"iteration": iteration, "collect": spec.collect})
        shares.append(shard(small_world, spec).metrics["exploredShare"])
    assert shares == pytest.approx([0.8, 0.4, 0.2], abs=0.1)


def test_explorer_temperature_and_min_p_change_what_is_explored(small_world: Any) -> None:
    def texts(**changes: str) -> list[str | None]:
        small_world.forget()
        spec = spec_of(small_world, 2, exploration="0.9", conversations=60, batch_size=60, **changes)
        found = small_world.data_of(shard(small_world, spec), "-".join(["d", *changes.values()]))
        return [turn.suggestion for each in found for turn in each.turns if turn.behaviour == "explore"]

    every = [texts(), texts(exploration_temperature="0.3"), texts(exploration_min_p="0.9")]
    assert len(set(map(str, every))) == 3


def test_iterations_have_customers_and_ids_of_their_own(small_world: Any) -> None:
    spec = spec_of(small_world)
    first = small_world.data_of(shard(small_world, spec))
    second = small_world.data_of(shard(small_world, spec.model_copy(update={"iteration": 2})), "second")
    assert {found.id for found in first}.isdisjoint(found.id for found in second)
    assert [len(found.turns) for found in first] != [len(found.turns) for found in second]


def test_another_collection_goes_into_the_same_data(small_world: Any) -> None:
    spec = spec_of(small_world, parallelism=2)
    shard(small_world, spec, 0)
    first = shard(small_world, spec, 1)
    more = spec.model_copy(update={"collection": 2, "inputs": spec.inputs | {"data": first.artifacts["data"]}})
    assert more.input_digest() != spec.input_digest()
    shard(small_world, more, 1)
    second = shard(small_world, more, 0)
    before, data = small_world.data_of(first), small_world.data_of(second, "both")
    assert sorted(found.id for found in data) == [f"i0001-{number:06d}" for number in range(80)]
    assert [found for found in data if found in before] == before
    assert second.metrics["conversations"] == 80
    assert second.metrics["success"] == sum(found.outcome for found in data) / 80
    assert read_manifest(small_world.store, second.artifacts["data"]).metadata["counts"]["conversations"] == 80  # type: ignore[index,call-overload]
    assert second.artifacts["data"].key.startswith("iterations/0001/collect-2/")
    third = spec.model_copy(update={"collection": 3, "inputs": spec.inputs | {"data": second.artifacts["data"]}})
    shard(small_world, third, 0)
    assert shard(small_world, third, 1).metrics["conversations"] == 120


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"collect": params.Collect(conversations=2, parallelism=3)}, 64, "parallelism 3 exceeds"),
        ({"environment": None}, 64, "environment is missing"),
        ({"environment": params.EnvironmentSpec(name="no-such")}, 64, "environment.name"),
        ({"collect": params.Collect(conversations=4, parallelism=1, exploration="0.1")}, 64, "inputs.explorer"),
        ({"policy": params.Policy(base="tiny:d16-l1-h2", max_new_tokens=4096)}, 64, "maxNewTokens 4096"),
    ],
)
def test_what_is_wrong_is_named(small_world: Any, change: dict[str, Any], code: int, words: str) -> None:
    index = 0 if "collect" in change else None
    found, message = run_shard(small_world, spec_of(small_world).model_copy(update=change), index)
    assert found == code, message
    assert words in message["error"]["message"]


def test_a_note_of_other_inputs_or_a_damaged_one_is_refused(small_world: Any) -> None:
    spec = spec_of(small_world, parallelism=2)
    shard(small_world, spec, 0)
    code, message = run_shard(small_world, spec.model_copy(update={"seed": 8}), 1)
    assert code == 65
    assert "other inputs" in message["error"]["message"]
    small_world.store.delete("iterations/0001/collect/shards/00001/turns.json")
    small_world.store.put("iterations/0001/collect/shards/00000/turns.json", b"{}")
    code, message = run_shard(small_world, spec, 1)
    assert code == 65
    assert "turns.json is no valid note" in message["error"]["message"]


UNSEEN = """
class Blind:
    max_turns = 2
    def reset(self, seeds):
        self.turn, self.seeds = 0, list(seeds)
        return ["hello"] * len(self.seeds)
    def step(self, suggestions):
        self.turn += 1
        over = [self.turn == 2 or seed % 4 == 0 for seed in self.seeds]
        steps = [
            {
                "reaction": "accepted" if seed % 2 else "rejected", "sent_message": "x", "outcome": False,
                "customer_message": None if end and not WENT_ON else "more", "displayed": bool(seed % 2),
                "censored": end and CENSORED,
            }
            for seed, end in zip(self.seeds, over)
        ]
        self.seeds = [seed for seed, end in zip(self.seeds, over) if not end]
        return steps
"""


@pytest.mark.parametrize("went_on", [False, True])
@pytest.mark.parametrize("censored", ["seed % 4 == 0", "True"])
def test_shares_are_of_what_was_seen_and_success_has_its_bounds(small_world: Any, censored: str, went_on: bool) -> None:
    file = small_world.folder / "blind.py"
    cuts_on = f"({went_on} and {censored})"
    file.write_text(UNSEEN.replace("CENSORED", f"({censored})").replace("WENT_ON", cuts_on))
    spec = spec_of(small_world).model_copy(update={"environment": params.EnvironmentSpec(name=f"{file}:Blind")})
    result = shard(small_world, spec)
    data, metrics = small_world.data_of(result), result.metrics
    turns = [turn for found in data for turn in found.turns]
    assert {turn.displayed for turn in turns} == {True, False}
    assert metrics["acceptance"] == 1.0  # all that the business saw it accepted
    assert metrics["abstention"] == pytest.approx(sum(not turn.displayed for turn in turns) / len(turns))
    count = sum(found.censored for found in data)
    assert metrics["censored"] == count > 0
    assert sum(found.went_on for found in data) == (count if went_on else 0)
    assert (metrics["successAtLeast"], metrics["successAtMost"]) == (0.0, count / len(data))
    assert ("success" in metrics) == (count < len(data))


TALKER = '''
from ippo_trainer.environments import Step


class Talker:
    """Says more and more; the business takes everything."""

    max_turns, system_prompt = 3, ""

    def reset(self, seeds):
        self.turn = 0
        return ["hello " * 40_000 if seed % 2 else "hello" for seed in seeds]

    def step(self, suggestions):
        self.turn += 1
        last = self.turn == self.max_turns
        return [
            Step("accepted", text or "well", "word " * 10**self.turn if not last else None, outcome=last)
            if text else Step("rejected", "well", "word " * 10**self.turn if not last else None, outcome=last)
            for text in suggestions
        ]
'''


def test_a_customer_who_says_more_than_fits_is_heard_as_far_as_it_does(small_world: Any) -> None:
    """maxPromptTokens cannot change in a run, so one long message must not end it."""
    source = small_world.folder / "talker.py"
    source.write_text(TALKER)
    environment = params.EnvironmentSpec(name=f"{source}:Talker")
    spec = spec_of(small_world).model_copy(update={"environment": environment})
    result = shard(small_world, spec)
    [warning] = result.warnings or ()
    assert "messages of customers were cut: they fit into no prompt of 256 tokens" in warning
    data = small_world.data_of(result)
    assert all(len(found.turns) == 3 for found in data)
    loaded = load_policy(small_world.folder / "policy")
    renderer = Renderer.load(loaded.directory, loaded.tokenizer)
    lengths = [
        len(renderer.prompt(found.turns[:index], turn.customer_message).ids)
        for found in data
        for index, turn in enumerate(found.turns)
    ]
    assert max(lengths) <= 256
    assert any("hello hello" in found.turns[0].customer_message for found in data)
