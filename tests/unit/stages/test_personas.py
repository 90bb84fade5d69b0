"""Personas in simulated conversations: as the gateway has them, and without any nothing changes."""

import json
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.personas import Persona, context_with, drawn
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.data.own import persona_of
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.cache import MEMORY_BYTES, PrefixMemory
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.report import owner
from ippo_trainer.report.gather import gather
from ippo_trainer.store.artifact import read_manifest
from ippo_trainer.text.render import Renderer

from tests.kit import fake_vllm

from .test_collect import TALKER, run_shard, shard, spec_of
from .test_samplers import logprobs_of

BOLD = Persona(name="bold", share="0.3", instructions=" Offer roses. ", temperature="1.7", min_p="0.1")
MILD = Persona(name="mild", share="0.2")
PERSONAS = {"personas": (BOLD, MILD), "max_exploration": "0.5"}


def drawn_of(spec: StageSpec, found: Conversation) -> str:
    """By the seed and the number alone."""
    seed = derive_seed(spec.seed, "conversation", spec.iteration, int(found.id.rpartition("-")[2]))
    persona = drawn(spec.collect.personas or (), str(seed)) if spec.collect else None
    return persona.name if persona else ""


@pytest.fixture(params=["Transformers", "VLLM"])
def sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    fake_vllm.install(monkeypatch)
    return str(request.param)


def test_a_conversation_is_its_personas_in_all_turns_and_logged_as_live_ones_are(
    small_world: Any, sampler: str
) -> None:
    spec = spec_of(small_world, **PERSONAS, sampler=sampler, temperature="0.8", batch_size=7)
    result = shard(small_world, spec)
    data = small_world.data_of(result)
    loaded = load_policy(small_world.folder / "policy")
    renderer = Renderer.load(loaded.directory, loaded.tokenizer)
    hows = {
        "": ("policy", "", 0.8, 0.0),
        "bold": ("explore", "Offer roses.", 1.7, 0.1),
        "mild": ("explore", "", 0.8, 0),
    }
    for found in data:
        name = drawn_of(spec, found)
        behaviour, instructions, temperature, min_p = hows[name]
        assert persona_of(found) == name
        assert found.context == ""
        for number, turn in enumerate(found.turns):
            assert (turn.behaviour, turn.writer) == (behaviour, name)
            assert turn.policy_digest == spec.inputs["policy"].digest
            prompt = renderer.prompt(found.turns[:number], turn.customer_message, (), instructions).ids
            how = Sampling(1, 16, temperature, renderer.stop_ids, 0, None, min_p)
            expected = logprobs_of(loaded.model, prompt, turn.token_ids, how)
            assert turn.sampler_logprobs == pytest.approx(expected, abs=1e-4)
    names = [persona_of(found) for found in data]
    assert {names.count(name) > 2 for name in hows} == {True}
    explored = [turn for found in data for turn in found.turns if turn.writer]
    assert result.metrics["exploredShare"] == len(explored) / sum(len(found.turns) for found in data)
    assert result.metrics["personaShare"] == sum(map(bool, names)) / len(data)
    sides = [[each.outcome for each in data if bool(persona_of(each)) == side] for side in (True, False)]
    assert result.metrics["personaSuccess"] == sum(sides[0]) / len(sides[0])
    assert result.metrics["successWithoutPersonas"] == sum(sides[1]) / len(sides[1])
    assert len(fake_vllm.LLM.engines) == (sampler == "VLLM")  # personas are the policy


def test_shards_batches_and_the_explorer_change_no_conversations_persona(small_world: Any) -> None:
    spec = spec_of(small_world, 2, **PERSONAS, parallelism=2, exploration="0.5")
    shard(small_world, spec, 0)
    both = small_world.data_of(shard(small_world, spec, 1))
    assert [persona_of(each) for each in both] == [drawn_of(spec, each) for each in both]
    for each in both:
        turns = {turn.writer for turn in each.turns}
        assert len(turns) == 1  # the explorer's coin is not tossed in a persona's conversation
        assert {turn.policy_digest for turn in each.turns if turn.writer} <= {spec.inputs["policy"].digest}
    assert any(turn.behaviour == "explore" and not turn.writer for each in both for turn in each.turns)


def test_killed_at_any_write_it_ends_with_the_same_personas(small_world: Any) -> None:
    spec = spec_of(small_world, **PERSONAS)
    expected = shard(small_world, spec)
    for number in (2, 5, 9):
        small_world.forget()
        small_world.kill_at_put(spec, number)
    assert shard(small_world, spec).artifacts == expected.artifacts


def test_without_personas_nothing_changes(small_world: Any) -> None:
    """Neither what a stage's input digest is made of, nor a byte of the data. The switch leaves the list as it is."""
    plain = spec_of(small_world)
    said = json.loads(plain.model_dump_json(by_alias=True, exclude_none=True))
    assert not {"personas", "maxExploration"} & said["collect"].keys()
    expected = shard(small_world, plain).artifacts
    for settings in ({"personas": (BOLD,), "max_exploration": "0"}, {"personas": ()}):
        small_world.forget()
        assert plain.collect is not None
        switched = plain.model_copy(update={"collect": plain.collect.model_copy(update=settings)})
        assert shard(small_world, switched).artifacts == expected
        assert switched.input_digest() != plain.input_digest()


def test_a_persona_gets_the_policys_own_words_where_it_changes_nothing(small_world: Any) -> None:
    """But for its luck: one with a share of all has the policy's distribution, and all turns are tagged."""
    spec = spec_of(small_world, personas=(Persona(name="all", share="1"),), max_exploration="0.99")
    turns = [turn for found in small_world.data_of(shard(small_world, spec)) for turn in found.turns]
    assert {(turn.behaviour, turn.writer) for turn in turns} == {("explore", "all")}


def test_instructions_that_leave_no_room_are_refused_before_anything_is_held(small_world: Any) -> None:
    long = Persona(name="long", share="0.1", instructions="Offer roses. " * 300)
    code, message = run_shard(small_world, spec_of(small_world, personas=(MILD, long)))
    assert code == 64
    text = message["error"]["message"]
    assert "collect.simulate.personas: the instructions of long make a prompt of at least" in text
    assert "policy.maxPromptTokens = 256" in text


def test_a_long_message_is_cut_beside_instructions_too(small_world: Any) -> None:
    source = small_world.folder / "talker.py"
    source.write_text(TALKER)
    wordy = Persona(name="wordy", share="0.5", instructions="Offer roses. " * 10)
    spec = spec_of(small_world, personas=(wordy,), max_exploration="0.5")
    environment = params.EnvironmentSpec(name=f"{source}:Talker")
    data = small_world.data_of(shard(small_world, spec.model_copy(update={"environment": environment})))
    loaded = load_policy(small_world.folder / "policy")
    renderer = Renderer.load(loaded.directory, loaded.tokenizer)
    longest = dict.fromkeys(("", "wordy"), 0)
    for found in data:
        name = persona_of(found)
        context = context_with(wordy.instructions, "") if name else ""
        for number, turn in enumerate(found.turns):
            tokens = len(renderer.prompt(found.turns[:number], turn.customer_message, (), context).ids)
            longest[name] = max(longest[name], tokens)
    assert all(200 < tokens <= 256 for tokens in longest.values())


FICKLE = """
class Fickle:
    max_turns = 1
    def reset(self, seeds):
        self.seeds = list(seeds)
        return ["hello"] * len(self.seeds)
    def step(self, suggestions):
        return [
            {"reaction": "rejected", "sent_message": "x", "customer_message": None,
             "outcome": seed % 3 == 0 and seed % 7 != 1, "censored": seed % 7 == 1}
            for seed in self.seeds
        ]
"""


def test_the_report_says_what_exploring_cost(small_world: Any) -> None:
    """By finished conversations alone."""
    file = small_world.folder / "fickle.py"
    file.write_text(FICKLE)
    environment = params.EnvironmentSpec(name=f"{file}:Fickle")
    spec = spec_of(small_world, **PERSONAS, parallelism=2, conversations=90)
    spec = spec.model_copy(update={"environment": environment})
    shard(small_world, spec, 0)
    result = shard(small_world, spec, 1)
    data = small_world.data_of(result)
    counts = read_manifest(small_world.store, result.artifacts["data"]).metadata["counts"]
    run = gather(small_world.store, {"metadata": {"name": "small"}, "spec": {}})
    page = owner.page(run)
    assert page is not None
    assert page.personas is not None
    rows = {row[0]: row for row in page.personas.rows}
    assert list(rows) == ["the policy as it is", "bold", "mild"]
    for name, row in zip(("", "bold", "mild"), rows.values(), strict=True):
        ends = [each.outcome for each in data if persona_of(each) == name and not each.censored]
        assert 0 < sum(ends) < len(ends)
        assert row[1:3] == [str(len(ends)), f"{1000 * sum(ends) / len(ends):,.0f}"]
        if name:
            assert isinstance(counts, dict)
            assert counts[f"persona/{name}/conversations"] == len(ends)
            alone = [each.outcome for each in data if not persona_of(each) and not each.censored]
            cost = len(ends) * (sum(alone) / len(alone) - sum(ends) / len(ends))
            assert row[3].startswith(f"{cost:,.0f} (".replace("-", "−"))
    ends = [each.outcome for each in data if persona_of(each) and not each.censored]
    assert result.metrics["personaSuccess"] == sum(ends) / len(ends)
    assert result.metrics["personaShare"] == len(ends) / sum(not each.censored for each in data)


@pytest.mark.parametrize("text", ["", "shop", " \n"])
def test_instructions_stand_before_the_context(text: str) -> None:
    assert context_with("", text) == text
    assert context_with(" Be bold.\n", text) == ("Be bold." + ("\n\n" + text if text else ""))


def test_personas_remember_no_more_together_than_a_policy_alone(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    monkeypatch.setattr(PrefixMemory, "renew", lambda memory, rows, asked: limits.append(memory.limit))
    shard(small_world, spec_of(small_world, **PERSONAS))
    assert set(limits[-6:]) == {MEMORY_BYTES // 3}  # before, what was loaded was checked
    limits.clear()
    small_world.forget()
    shard(small_world, spec_of(small_world))
    assert set(limits) == {MEMORY_BYTES}
