"""The last layer as an artifact: whoever reads Q reads it, unchanged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.censoring import UNCENSORED
from ippo_trainer.models import last_layer
from ippo_trainer.models.load import load_q, new_q, save_policy
from ippo_trainer.models.packing import pack
from ippo_trainer.qfit.least_squares import LeastSquaresSettings
from ippo_trainer.qfit.readings import linear_q, read_all, read_logits
from ippo_trainer.qfit.refit import Log, empty_features, fill_features, refit, response_features, turn_features
from ippo_trainer.training.replicas import replicated

SETTINGS = LeastSquaresSettings((2, 4), 1.0, 0.9)
CPU = torch.device("cpu")


@pytest.fixture
def model(make_policy: Any) -> Any:
    return new_q(make_policy(), 1)


@pytest.fixture
def toy(make_toy: Any) -> Any:
    return make_toy(120)


def log_of(toy: Any, **fields: Any) -> Log:
    return Log(toy.conversations, toy.examples, UNCENSORED, **fields)


def fitted_to(model: Any, logs: list[Log], folds: int = 1) -> Any:
    return refit(model, logs, features_of(model, logs), SETTINGS, folds)


def features_of(model: Any, logs: list[Log], processes: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    features = empty_features(model.config.hidden_size, logs)
    with replicated(processes) as ranks:
        list(fill_features(model, logs, features, 1 << 12, ranks))
    return features


def refitted(model: Any, toy: Any) -> Any:
    return fitted_to(model, [log_of(toy)], 3)


def of_suggestion(hidden: torch.Tensor, response: Sequence[int]) -> torch.Tensor:
    """What Q reads of a text that ends with the response."""
    return torch.cat([hidden[-1], hidden[-len(response) :].mean(0)])


def test_features_are_those_of_every_turn_read_alone(model: Any, toy: Any) -> None:
    states, actions = turn_features(model, toy.examples, 1 << 12)
    groups = [group for example in toy.examples for group in example.groups]
    for number in range(0, len(groups), 7):
        group = groups[number]
        with torch.no_grad():
            hidden = model.model(torch.tensor([group.prompt + group.responses[0]])).last_hidden_state[0]
        torch.testing.assert_close(states[number], hidden[len(group.prompt) - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(actions[number], of_suggestion(hidden, group.responses[0]), atol=1e-4, rtol=1e-4)


def test_features_of_several_responses_are_those_of_each(model: Any, toy: Any) -> None:
    """In the order given, however the groups are packed."""
    groups = [group for example in toy.examples for group in example.groups][:40]
    several = [replace(group, responses=[group.responses[0], [5, 6, 7], [4]]) for group in groups]
    together = response_features(model, several, 1 << 8)
    for number in range(0, len(groups), 7):
        for place, response in enumerate(several[number].responses):
            with torch.no_grad():
                hidden = model.model(torch.tensor([groups[number].prompt + response])).last_hidden_state[0]
            expected = of_suggestion(hidden, response)
            torch.testing.assert_close(together[3 * number + place], expected, atol=1e-4, rtol=1e-4)


def test_every_reading_goes_through_it(model: Any, toy: Any) -> None:
    before = read_all(model, toy.examples, 1 << 12, CPU)[0]
    layer = refitted(model, toy)
    states, actions = turn_features(model, toy.examples, 1 << 12)
    q, v = read_all(model, toy.examples, 1 << 12, CPU)
    logits = layer(states, states, actions)
    np.testing.assert_allclose(q, logits[0].double().sigmoid(), atol=1e-4)
    np.testing.assert_allclose(v, logits[1].double().sigmoid(), atol=1e-4)
    last_layer.attach(model, None)
    np.testing.assert_array_equal(read_all(model, toy.examples, 1 << 12, CPU)[0], before)


@pytest.mark.parametrize("squares", [True, False])
def test_what_q_says_before_bounds_is_what_is_read_and_linear_in_suggestions(
    model: Any, toy: Any, squares: bool
) -> None:
    """Of a last layer a share, of a trained head its logit."""
    if squares:
        refitted(model, toy)
    read = torch.from_numpy(read_all(model, toy.examples, 1 << 12, CPU)[0])
    states, actions = turn_features(model, toy.examples, 1 << 12)
    said = linear_q(model, states, actions)
    bounded = said.clamp(last_layer.EDGE, 1 - last_layer.EDGE) if squares else said.sigmoid()
    torch.testing.assert_close(bounded, read, atol=1e-4, rtol=1e-4)
    others = actions.flip(0)
    means = linear_q(model, states, (actions + others) / 2)
    torch.testing.assert_close(means, (said + linear_q(model, states, others)) / 2, atol=1e-4, rtol=1e-4)


def test_several_suggestions_of_a_state_are_read_with_its_features(model: Any, toy: Any) -> None:
    refitted(model, toy)
    group = toy.examples[0].groups[0]
    other = [*group.responses[0][:-1], 5]
    together = type(group)(group.prompt, [group.responses[0], other])
    with torch.no_grad():
        both = read_logits(model, pack([together]))
        alone = [read_logits(model, pack([type(group)(group.prompt, [ids])])).q for ids in together.responses]
    torch.testing.assert_close(both.q, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_read_the_features_together(model: Any, make_toy: Any, processes: int) -> None:
    """Of a log that has fewer conversations than there are processes, too; each renders its own alone."""
    toys = [make_toy(40), make_toy(1, seed=1)]
    rendered: list[list[int]] = []

    class Rendering(list[Any]):
        def __getitem__(self, part: Any) -> Any:
            examples = super().__getitem__(part)
            rendered.append([self.index(each) for each in examples])
            return examples

    logs = [Log(toy.conversations, Rendering(toy.examples), UNCENSORED) for toy in toys]
    alone = features_of(model, logs)
    rendered.clear()
    together = features_of(model, logs, processes)
    assert rendered == [list(range(0, 40, processes)), [0]]
    for mine, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_data_that_one_process_cannot_render_are_bad_data_for_all(model: Any, toy: Any, bad: int) -> None:
    """Not a process that was lost: that would be tried again."""

    class Failing(list[Any]):
        def __getitem__(self, part: Any) -> Any:
            examples = super().__getitem__(part)
            if part.start == bad:
                raise BadDataError("a message is too long", "Raise policy.maxPromptTokens.")
            return examples

    logs = [log_of(toy), Log(toy.conversations, Failing(toy.examples), UNCENSORED)]
    with pytest.raises(BadDataError, match=r"a message is too long\. Raise policy\.maxPromptTokens\."):
        features_of(model, logs, 3)


def test_turns_of_other_policies_serve_q_alone(model: Any, make_toy: Any) -> None:
    mine, others = make_toy(80), make_toy(60, seed=1)
    alone = fitted_to(model, [log_of(mine)])
    both = fitted_to(model, [log_of(mine), log_of(others, own=lambda turn: False)])
    assert not torch.equal(alone.states.centre, both.states.centre), "features are centred on all turns"
    states, actions = turn_features(model, mine.examples, 1 << 12)
    assert not torch.allclose(alone(states, states, actions)[0], both(states, states, actions)[0])
    relabelled = [replace(each, outcome=not each.outcome) for each in others.conversations]
    changed = fitted_to(model, [log_of(mine), Log(relabelled, others.examples, UNCENSORED, lambda turn: False)])
    torch.testing.assert_close(changed.v, both.v, atol=1e-5, rtol=1e-3)
    assert not torch.allclose(changed.q, both.q)


def test_an_own_log_in_two_parts_is_one_log(model: Any, toy: Any) -> None:
    whole = fitted_to(model, [log_of(toy)])
    half = len(toy.conversations) // 2
    parts = [Log(toy.conversations[part], toy.examples[part], UNCENSORED) for part in (slice(half), slice(half, None))]
    again = fitted_to(model, parts)
    torch.testing.assert_close(again.q, whole.q)
    torch.testing.assert_close(again.v, whole.v)


class Nothing:
    def save(self, directory: Path) -> None:
        """Writes nothing."""

    save_pretrained = save


def saved(model: Any, toy: Any, directory: Path) -> Any:
    layer = refitted(model, toy)
    last_layer.attach(model, None)
    save_policy(directory, model, Nothing(), Nothing())
    last_layer.save(directory, layer)
    return layer


def test_a_saved_model_is_loaded_with_it(model: Any, toy: Any, tmp_path: Path) -> None:
    layer = saved(model, toy, tmp_path / "q")
    again = load_q(tmp_path / "q")
    last_layer.attach(model, layer)
    for one, other in zip(
        read_all(again, toy.examples, 1 << 12, CPU), read_all(model, toy.examples, 1 << 12, CPU), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_one_is_loaded_as_before(model: Any, tmp_path: Path) -> None:
    save_policy(tmp_path / "q", model, Nothing(), Nothing())
    assert last_layer.last_layer(load_q(tmp_path / "q")) is None


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_damaged_one_is_one_clear_error(model: Any, toy: Any, tmp_path: Path, content: bytes | None) -> None:
    saved(model, toy, tmp_path / "q")
    if content is None:  # of a wider trunk
        last_layer.save(tmp_path / "q", last_layer.LastLayer((32, 64), 4, 2))
    else:
        (tmp_path / "q" / last_layer.FILE).write_bytes(content)
    with pytest.raises(BadDataError, match=r"last_layer\.safetensors"):
        load_q(tmp_path / "q")
