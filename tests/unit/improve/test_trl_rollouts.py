"""Sizes and states of trl's rollouts, and the two things that trl cannot do with some policies."""

from itertools import product
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.improve.trl import checks
from ippo_trainer.improve.trl.checks import check_forward, check_room
from ippo_trainer.improve.trl.rollouts import Rollout, StateStream, StateTokens
from ippo_trainer.improve.trl.visit import lent
from ippo_trainer.models import memory

from tests.kit.architectures import tiny_config
from tests.kit.tiny_models import tiny_model
from tests.unit.improve.conftest import ToyRenderer, conversations


def test_a_rollout_has_the_states_in_equal_parts_that_trl_accepts() -> None:
    numbers = (1, 2, 5, 12, 37), (1, 3, 4), (2, 3, 4, 8), (1, 2, 3, 4, 7, 8, 50, 10_000)
    for states, minibatches, samples, most_rows in product(*numbers):
        rollout = Rollout.of(states, samples, minibatches, most_rows)
        case = f"{states} states, {minibatches} minibatches, {samples} samples, {most_rows} rows: {rollout}"
        assert rollout.rows <= max(1, most_rows), case
        assert rollout.minibatches == min(minibatches, states), case
        assert rollout.suggestions == rollout.rows * rollout.forwards * rollout.minibatches, case
        assert rollout.rows % samples == 0 or samples % rollout.rows == 0, case
        whole = -(-states // rollout.minibatches)
        assert states <= rollout.groups < states + rollout.minibatches * (1 + whole), case


def test_every_state_comes_once_in_a_shuffle_and_its_place_is_its_own() -> None:
    states = LoggedStates(conversations(7), ToyRenderer())
    stream = StateStream(states, seed=5)
    count = sum(len(states.of(number)) for number in range(len(states)))
    assert len(stream) == count == sum(states.size(number) for number in range(len(states)))
    everything = stream.numbers(0, 3 * count).tolist()
    for start in range(0, 3 * count, count):
        assert sorted(everything[start : start + count]) == list(range(count))
    assert everything[:count] != everything[count : 2 * count]
    for start, size in ((0, 1), (count - 2, 5), (count, count), (2 * count + 3, 4)):
        assert stream.numbers(start, size).tolist() == everything[start : start + size]
    assert StateStream(states, seed=6).numbers(0, count).tolist() != everything[:count]
    of = [stream.of(number) for number in range(count)]
    assert of == [state for number in range(len(states)) for state in states.of(number)]
    assert states.longest() == max(len(state.prompt) for state in of)


def test_a_prompts_tokens_are_those_that_we_have() -> None:
    stream = StateStream(LoggedStates(conversations(7), ToyRenderer()), seed=5)
    tokens = StateTokens(stream, [3, 9], 0)
    numbers = range(len(stream))
    assert tokens(text=[str(number) for number in numbers])["input_ids"] == [stream.of(n).prompt for n in numbers]
    assert (tokens.pad_token_id, tokens.eos_token_id, tokens.bos_token_id) == (0, 3, None)
    assert tokens.batch_decode([[4, 12], [3]], skip_special_tokens=True) == ["4 12", "3"]


@pytest.mark.parametrize(("kind", "fits"), [("llama", True), ("qwen2", True), ("gpt2", False)])
def test_a_policy_that_counts_places_from_the_left_is_refused(kind: str, fits: bool) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(tiny_config(kind)).eval()
    prompts = [list(range(2, 12)), list(range(2, 40)), list(range(5, 9))]
    if fits:
        check_forward(policy, prompts, 0, "GRPO")
        return
    with pytest.raises(BadSpecError, match="GRPO: trl pads prompts on the left") as caught:
        check_forward(policy, prompts, 0, "GRPO")
    assert "PPO or MPO" in caught.value.remedy


@pytest.mark.parametrize(
    ("device", "able", "fine"), [("cuda", False, False), ("cuda", True, True), ("cpu", False, True)]
)
def test_a_gpu_without_a_compiler_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, able: bool, fine: bool
) -> None:
    monkeypatch.setattr(checks, "compiles", lambda: able)
    if fine:
        checks.check_compiler(torch.device(device), "GRPO")
        return
    with pytest.raises(BadSpecError, match="GRPO: on a GPU trl compiles kernels") as caught:
        checks.check_compiler(torch.device(device), "GRPO")
    assert "gcc" in caught.value.remedy


def test_a_rollout_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_model("llama", 16, seed=0)
    per_token = 2 * 1 * 16 * 4
    monkeypatch.setattr(memory, "held", lambda: 100)
    monkeypatch.setattr(memory, "memory_limit", lambda: 100 + 10 * 7 * per_token)
    check_room(policy, 10, 7, "RLOO")
    with pytest.raises(BadDataError, match="RLOO generates 11 suggestions at once") as caught:
        check_room(policy, 11, 7, "RLOO")
    assert "improve.batchSize" in caught.value.remedy


def test_what_is_lent_comes_back_as_it_was() -> None:
    policy = tiny_model("llama", 16, seed=0, eos_token_id=5, pad_token_id=7)
    before: Any = (dict(vars(policy)), policy.config.to_dict(), policy.generation_config.to_dict())

    def visit() -> None:
        with lent(policy, {4, 2}, 1) as model:
            assert model.generation_config.eos_token_id == [2, 4]
            model.forward, model.model_tags = print, ["trl"]
            model.config.use_cache, model.config.pad_token_id = False, 9
            model.train()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        visit()
    assert (dict(vars(policy)), policy.config.to_dict(), policy.generation_config.to_dict()) == before
    assert not any(module.training for module in policy.modules())
