"""The stage improve as the operator runs it: spec in, a better policy and its account out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import BY_TRL
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.data.splits import split
from ippo_trainer.environments import load
from ippo_trainer.improve.improvement import Improvement
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.models.load import load_policy
from ippo_trainer.stages import improve
from ippo_trainer.stages.runtime import StopFlag
from ippo_trainer.store.artifact import fetch, publish, read_manifest
from ippo_trainer.text.render import Renderer

FUNNEL = params.EnvironmentSpec(name="sr-funnel", options={"horizon": 4})
QUICK = params.Improve(
    algorithm="PPO",
    updates=4,
    batch_size=8,
    samples_per_state=2,
    critic_warmup_updates=2,
    learning_rate="0.003",
    kl_target="5",
)


def spec_of(world: Any, section: params.Improve = QUICK, count: int = 40, **fields: Any) -> StageSpec:
    policy = world.put_policy()
    inputs = {"policy": policy, "q": world.put_q(policy), "data": world.put_data(world.demonstrations(count))}
    fields = {"policy": params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256, max_new_tokens=8)} | fields
    return world.spec("improve", inputs, improve=section, **fields)


MPO = params.Improve(
    algorithm="MPO",
    mpo=params.Mpo(conversations=20, own_candidates=4, explored_candidates=6, epochs=2, batch_size=5),
    kl_target="5",
)


def mpo_spec(world: Any, explorer_seed: int = 0, section: params.Improve = MPO, **fields: Any) -> StageSpec:
    """As in the first iteration (seed 0: the explorer is the policy), or as later."""
    spec = spec_of(world, section, **fields)
    own = spec.inputs["policy"]
    explorer = world.put_policy(explorer_seed, "explorer") if explorer_seed else own
    return spec.model_copy(update={"inputs": spec.inputs | {"explorer": explorer}})


def again(world: Any) -> None:
    world.store.delete("iterations/0001/policy/result.json")


def fetched(world: Any, result: StageResult) -> Path:
    folder: Path = world.folder / "fetched"
    fetch(world.store, result.artifacts["policy"], folder, "policy")
    return folder


def test_it_publishes_a_policy_and_says_what_it_gains(small_world: Any) -> None:
    spec = spec_of(small_world)
    result = small_world.result(spec)
    metrics = result.metrics
    assert metrics["heldOutQLiftLow"] <= metrics["heldOutQLift"] <= metrics["heldOutQLiftHigh"]
    assert metrics["klLow"] <= metrics["kl"] <= metrics["klHigh"]
    assert (metrics["updates"], metrics["warmUps"]) == (4, 2)
    assert metrics["heldOutQLiftLeast"] <= metrics["heldOutQLiftLow"]
    assert len(metrics) <= 32
    assert "less the error of Q" in result.message
    assert "held-out states changed by" in result.message
    folder = fetched(small_world, result)
    policy = load_policy(folder)
    assert Renderer.load(folder, policy.tokenizer).max_prompt_tokens == 256
    training = json.loads((folder / "training.json").read_text())
    assert (training["kind"], training["algorithm"], training["kept"]) == ("improve", "PPO", "last")
    assert [row["update"] for row in training["curves"]] == [0, 1, 2, 3]
    assert training["held_out"]["heldOutQLift"] == metrics["heldOutQLift"]
    manifest = read_manifest(small_world.store, result.artifacts["policy"])
    assert manifest.inputs == {name: ref.digest for name, ref in spec.inputs.items()}


@pytest.mark.parametrize("explorer_seed", [0, 1])
def test_mpo_publishes_a_policy_with_the_same_account(small_world: Any, explorer_seed: int) -> None:
    result = small_world.result(mpo_spec(small_world, explorer_seed))
    metrics = result.metrics
    assert metrics["heldOutQLiftLow"] <= metrics["heldOutQLift"] <= metrics["heldOutQLiftHigh"]
    assert metrics["kl"] < 1.5 * 5
    assert metrics["updates"] == 8
    training = json.loads((fetched(small_world, result) / "training.json").read_text())
    assert (training["kind"], training["algorithm"]) == ("improve", "MPO")
    assert [row["update"] for row in training["curves"]] == [4, 8]
    assert {"kl", "q_lift", "policy_loss", "kl_coefficient"} <= training["curves"][0].keys()
    assert "2 passes over" in training["ended"]


def by_trl(name: str) -> params.Improve:
    return QUICK.model_copy(update={"algorithm": name, "updates": 3, "learning_rate": "0.01"})


@pytest.mark.parametrize("name", BY_TRL)
def test_trls_trainers_publish_a_policy_with_the_same_account(small_world: Any, name: str) -> None:
    spec = spec_of(small_world, by_trl(name)).model_copy(update={"threads": 2})
    result = small_world.result(spec)
    metrics = result.metrics
    assert metrics["heldOutQLiftLow"] <= metrics["heldOutQLift"] <= metrics["heldOutQLiftHigh"]
    assert metrics["kl"] < 1.5 * 5
    assert (metrics["updates"], metrics["warmUps"]) == (3, 1)
    folder = fetched(small_world, result)
    training = json.loads((folder / "training.json").read_text())
    assert (training["kind"], training["algorithm"], training["kept"]) == ("improve", name, "last")
    assert [row["update"] for row in training["curves"]] == [0, 1, 2]
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    again(small_world)
    other = small_world.result(spec.model_copy(update={"improve": QUICK}))
    fetch(small_world.store, other.artifacts["policy"], small_world.folder / "by-ppo", "policy")
    by_ppo = {path.name: path.read_bytes() for path in (small_world.folder / "by-ppo").iterdir()}
    differ = {name for name in kept.keys() | by_ppo.keys() if kept.get(name) != by_ppo.get(name)}
    assert differ == {"model.safetensors", "training.json"}


@pytest.mark.parametrize("name", [*BY_TRL, "PPO"])
def test_trls_trainers_run_on_one_process(small_world: Any, name: str) -> None:
    section = QUICK.model_copy(update={"algorithm": name})
    context: Any = SimpleNamespace(spec=spec_of(small_world, section))
    two: Any = SimpleNamespace(size=2)
    if name == "PPO":
        assert improve._holdings(context, section, two).own_loop
        return
    with pytest.raises(BadSpecError, match=f"improve.algorithm {name} runs on one process, and 2 work") as caught:
        improve._holdings(context, section, two)
    assert "spec.pods.improve" in caught.value.remedy


@pytest.mark.parametrize(("exploration", "algorithm"), [("0", "PPO"), ("0.1", "MPO")])
def test_where_collect_explores_the_algorithm_is_mpo(small_world: Any, exploration: str, algorithm: str) -> None:
    section = QUICK.model_copy(update={"algorithm": None, "mpo": MPO.mpo})
    collect = params.Collect(exploration=exploration)
    result = small_world.result(mpo_spec(small_world, section=section, collect=collect))
    training = json.loads((fetched(small_world, result) / "training.json").read_text())
    assert training["algorithm"] == algorithm


def test_mpo_without_the_explorer_is_a_bad_spec(small_world: Any) -> None:
    code, message = small_world.run(spec_of(small_world, MPO))
    assert code == 64
    assert "inputs.explorer is missing" in message["error"]["message"]


def test_mpo_never_draws_in_held_out_conversations(small_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()
    real = Sampler.sample

    def spy(self: Sampler, model: Any, conversations: Any, purpose: str) -> Any:
        if purpose in {"own", "explored"}:
            drawn.update(state.conversation for states in conversations for state in states)
        return real(self, model, conversations, purpose)

    monkeypatch.setattr(Sampler, "sample", spy)
    small_world.result(mpo_spec(small_world))
    train, _ = split([found.id for found in small_world.demonstrations(40)], 0.5, 3)
    assert drawn
    assert drawn <= set(train)


def test_held_out_conversations_are_those_of_fit_q_and_never_train(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[bool, set[str]] = {True: set(), False: set()}
    draw = Sampler.draw

    def spy(self: Sampler, policy: Any, conversations: Any, purpose: str, *rest: Any) -> Any:
        drawn[purpose in {"probe", "held-out"}] |= {state.conversation for states in conversations for state in states}
        return draw(self, policy, conversations, purpose, *rest)

    monkeypatch.setattr(Sampler, "draw", spy)
    small_world.result(spec_of(small_world))
    ids = [found.id for found in small_world.demonstrations(40)]
    train, held = split(ids, 0.5, 3)
    assert drawn[True] == set(held)
    assert drawn[False] <= set(train)
    assert len(drawn[False]) > 10


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_guards_have_what_bounds_the_kl(batch: int) -> None:
    task = SimpleNamespace(settings=SimpleNamespace(batch_size=batch), sampler=None)
    guards, report = improve._held_out(cast(Any, task), cast(Any, range(improve.LEAST_HELD_OUT)))
    assert min(len(guards), len(report)) >= 2
    assert not set(guards.numbers) & set(report.numbers)


def test_too_few_held_out_conversations_are_refused(small_world: Any) -> None:
    data = small_world.demonstrations(8)  # of which the seed holds out half
    policy = small_world.put_policy()
    inputs = {"policy": policy, "q": small_world.put_q(policy), "data": small_world.put_data(data)}
    code, message = small_world.run(small_world.spec("improve", inputs, improve=QUICK))
    assert (code, "held-out conversations: at least 1 and 8" in message["error"]["message"]) == (65, True)


def test_censored_conversations_have_states_too(small_world: Any) -> None:
    data = small_world.demonstrations(40)
    data = [replace(found, censored=n % 2 == 0, outcome=False) for n, found in enumerate(data)]
    policy = small_world.put_policy()
    inputs = {"policy": policy, "q": small_world.put_q(policy), "data": small_world.put_data(data)}
    metrics = small_world.result(small_world.spec("improve", inputs, improve=QUICK)).metrics
    assert metrics["conversations"] + metrics["heldOutConversations"] > 30


def test_states_of_another_policy_are_left_out(small_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(small_world)
    data = small_world.demonstrations(40, 1000)
    for found in data[::2]:
        for turn in found.turns:
            turn.policy_digest = "sha256:" + "0" * 64
    mixed = small_world.put_data(data, "mixed")
    metrics = small_world.result(spec.model_copy(update={"inputs": {**spec.inputs, "data": mixed}})).metrics
    used = metrics["conversations"] + metrics["heldOutConversations"]
    assert 10 < used <= 20
    assert "20 of 40 conversations were held by another policy" in caplog.text


def test_dropped_turns_are_told(small_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(small_world)
    small_world.result(spec)
    assert "oldest turns" not in caplog.text
    folder = fetched(small_world, small_world.result(spec))
    policy = load_policy(folder)
    longest = max(
        len(Renderer.load(folder, policy.tokenizer).prompt(found.turns[:-1], found.turns[-1].customer_message).ids)
        for found in small_world.demonstrations(40)
    )
    again(small_world)
    short = small_world.folder / "short"
    shutil.copytree(small_world.folder / "policy", short)
    Renderer(policy.tokenizer, load(FUNNEL).system_prompt, longest - 5).save(short)
    inputs = {**spec.inputs, "policy": publish(small_world.store, "given/short", short, "policy")}
    small_world.policy = inputs["policy"]
    data = small_world.put_data(small_world.demonstrations(40), "for-short")
    result = small_world.result(spec.model_copy(update={"inputs": {**inputs, "data": data}}))
    assert result.warnings is not None
    assert any("their later prompts lose the oldest turns" in line for line in result.warnings)


def test_equal_inputs_give_equal_bytes_and_other_seeds_do_not(small_world: Any) -> None:
    spec = spec_of(small_world)
    first = small_world.result(spec)
    again(small_world)
    assert small_world.result(spec) == first
    other = small_world.result(spec.model_copy(update={"seed": 8, "iteration": 2}))
    assert other.artifacts["policy"].digest != first.artifacts["policy"].digest


@pytest.mark.parametrize(("algorithm", "threads"), [("PPO", 1), ("MPO", 1), ("MPOThenPPO", 1), ("PPO", 2), ("MPO", 2)])
def test_stopped_anywhere_it_resumes_to_the_same_bytes(
    small_world: Any, monkeypatch: pytest.MonkeyPatch, algorithm: str, threads: int
) -> None:
    if algorithm == "PPO":
        spec = spec_of(small_world)
    else:
        section = (QUICK if algorithm == "MPOThenPPO" else MPO).model_copy(
            update={"algorithm": algorithm, "mpo": MPO.mpo}
        )
        spec = mpo_spec(small_world, 1, section)
    spec = spec.model_copy(update={"threads": threads})
    whole = small_world.result(spec)
    again(small_world)
    for after in (1, 2, 1):  # in the warm-up or the draws, across their end, among the updates
        made = 0
        original = Improvement.run

        def run(self: Any, after_step: Any, original: Any = original) -> None:
            def counted() -> None:
                nonlocal made
                made += 1
                after_step()

            original(self, counted)

        with monkeypatch.context() as patch:
            patch.setattr(StopFlag, "is_set", lambda _: made >= after)  # noqa: B023
            patch.setattr(StopFlag, "signal", "SIGTERM", raising=False)
            patch.setattr(Improvement, "run", run)
            code, message = small_world.run(spec)
        assert (code, made) == (143, after), message
    assert small_world.result(spec) == whole


@pytest.mark.parametrize("section", [QUICK, by_trl("GRPO")], ids=["PPO", "GRPO"])
def test_killed_anywhere_it_resumes_to_the_same_bytes(small_world: Any, section: params.Improve) -> None:
    """Before any write to the store: within a checkpoint, at its pointer, between two."""
    spec = spec_of(small_world, section)
    whole = small_world.result(spec)
    again(small_world)
    for at_put in (4, 9, 17) if section is QUICK else (4, 7):
        small_world.kill_at_put(spec, at_put)
    assert small_world.result(spec) == whole
    assert not list(small_world.store.list("iterations/0001/policy/checkpoint"))


def test_a_missing_section_or_input_is_a_bad_spec(small_world: Any) -> None:
    spec = spec_of(small_world)
    code, message = small_world.run(spec.model_copy(update={"improve": None}))
    assert (code, "improve is missing" in message["error"]["message"]) == (64, True)
    inputs = {name: ref for name, ref in spec.inputs.items() if name != "q"}
    code, message = small_world.run(spec.model_copy(update={"inputs": inputs}))
    assert (code, "inputs.q" in message["error"]["message"]) == (64, True)


def test_too_little_to_hold_out_is_bad_data(small_world: Any) -> None:
    code, message = small_world.run(spec_of(small_world, count=2))
    assert (code, "held-out conversations" in message["error"]["message"]) == (65, True)


def test_a_q_that_does_not_tell_its_split_is_bad_data(small_world: Any) -> None:
    spec = spec_of(small_world)
    directory = small_world.folder / "q"
    (directory / "calibration.json").write_text('{"skill": {}}')
    q = publish(small_world.store, "given/other-q", directory, "q")
    code, message = small_world.run(spec.model_copy(update={"inputs": {**spec.inputs, "q": q}}))
    assert (code, "how its data were split" in message["error"]["message"]) == (65, True)


def test_a_prompt_that_cannot_fit_the_model_is_a_bad_spec(small_world: Any) -> None:
    long = params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256, max_new_tokens=4096)
    code, message = small_world.run(spec_of(small_world, policy=long))
    assert (code, "policy.maxNewTokens" in message["error"]["message"]) == (64, True)
