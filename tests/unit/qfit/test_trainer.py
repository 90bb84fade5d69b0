"""The fit learns a Q that is known, stops early, and restores its state exactly."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.load import new_q
from ippo_trainer.qfit.examples import Targets
from ippo_trainer.qfit.procedure import Procedure, Side, Split, language_head
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.trainer import FitSettings, constant_loss
from ippo_trainer.training import checkpoint

SETTINGS = FitSettings(
    epochs=7,
    patience=7,
    learning_rate=0.01,
    batch_size=20,
    lm_loss_weight=0.1,
    discount=0.9,
    trace_lambda=1.0,
    seed=5,
)


def split_of(*sides: Any, open_conversations: Sequence[Conversation] = ()) -> Split:
    """Training and held-out toys."""
    log = [conversation for side in sides for conversation in side.conversations]
    return Split(*(Side(side.conversations, side.examples) for side in sides), [*log, *open_conversations])


def procedure(make_toy: Any, make_policy: Any, settings: FitSettings, tied: bool = True) -> Procedure:
    torch.manual_seed(1)
    policy, train, held = make_policy(tied), make_toy(240, 1, [1, 2]), make_toy(80, 2, [1, 2])
    model = new_q(policy, 2)
    return Procedure(model, language_head(policy, model), settings, split_of(train, held))


def nothing() -> None:
    """After an update."""


def test_open_conversations_count_for_weights_and_for_the_explored_share(make_toy: Any, make_policy: Any) -> None:
    """What is finished is a choice: neither the hazard of being cut off nor the explorer's coin is counted on it."""
    policy, train, held = make_policy(), make_toy(40, 1, [2]), make_toy(10, 2, [2])
    own = train.conversations[0].turns[0]
    some = [Conversation("open", turns, censored=True) for turns in ([own], [own, replace(own, behaviour="explore")])]
    split = split_of(train, held, open_conversations=some * 50)
    fitting = Procedure(new_q(policy, 2), None, SETTINGS, split)
    assert fitting.weights.own_after == pytest.approx({None: 0.8, "": 0.8})
    assert fitting.weights.censoring.uncensored_share == pytest.approx([2 / 3, 0.5])
    weights = fitting.fit.train.targets.weight  # behind a first turn two of three were seen, four of five unexplored
    assert weights[::2] / weights[1::2] == pytest.approx([3 / 2 / 0.8] * 40)


@pytest.mark.parametrize("trace", [1.0, 0.3])
def test_it_tells_good_suggestions_from_bad_ones(make_toy: Any, make_policy: Any, trace: float) -> None:
    fitting = procedure(make_toy, make_policy, replace(SETTINGS, trace_lambda=trace))
    fitting.run(nothing)
    test = make_toy(200, 9, turns=[1])
    q, v = read_all(fitting.model, test.examples, 1024, torch.device("cpu"))
    good = np.array([found.turns[-1].suggestion == "good" for found in test.conversations])
    # Half of the first turns end the conversation, with .6 or .1; the others are worth about .9 * .35.
    assert q[good].mean() - q[~good].mean() > 0.2
    assert q[~good].mean() < v.mean() < q[good].mean()
    assert [row["epoch"] for row in fitting.curves] == list(range(7))
    assert [row["phase"] for row in fitting.curves] == ["monte-carlo"] * (7 if trace == 1.0 else 3) + ["lambda"] * (
        0 if trace == 1.0 else 4
    )


def test_it_stops_early_and_keeps_the_best(make_toy: Any, make_policy: Any) -> None:
    settings = replace(SETTINGS, epochs=30, patience=2, learning_rate=0.05)
    fitting = procedure(make_toy, make_policy, settings)
    fitting.run(nothing)
    losses = [row["held_out_loss"] for row in fitting.curves]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30
    assert fitting.fit.held_out_loss() == pytest.approx(min(losses), abs=1e-7)


@pytest.mark.parametrize(("tied", "trace"), [(True, 1.0), (False, 0.5)])
def test_restored_at_any_update_it_ends_the_same(
    make_toy: Any, make_policy: Any, tmp_path: Path, tied: bool, trace: float
) -> None:
    settings = replace(SETTINGS, epochs=3, patience=3, trace_lambda=trace)
    whole = procedure(make_toy, make_policy, settings, tied)

    def save() -> None:
        (tmp_path / str(whole.steps)).mkdir()
        checkpoint.save(tmp_path / str(whole.steps), whole)

    whole.run(save)
    assert len(list(tmp_path.iterdir())) == whole.total == 36
    for index in (0, 11, 12, 18, 23, 35):  # the ends of epochs among them
        again = procedure(make_toy, make_policy, settings, tied)
        assert checkpoint.load(tmp_path / str(index + 1), again)
        assert again.steps == index + 1
        again.run(nothing)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name
        assert again.curves == whole.curves


def test_splitting_a_batch_changes_nothing_but_rounding(make_toy: Any, make_policy: Any) -> None:
    ends = []
    for max_tokens in (32, 4096):
        fitting = procedure(make_toy, make_policy, replace(SETTINGS, epochs=1, max_tokens=max_tokens))
        fitting.run(nothing)
        ends.append(fitting.curves[-1]["held_out_loss"])
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)


def test_without_a_language_head_only_q_and_v_are_fitted(make_toy: Any, make_policy: Any) -> None:
    fitting = procedure(make_toy, make_policy, replace(SETTINGS, epochs=1, lm_loss_weight=0.0))
    fitting.run(nothing)
    assert len(fitting.curves) == 1


def test_a_diverging_loss_names_the_remedy(make_toy: Any, make_policy: Any) -> None:
    fitting = procedure(make_toy, make_policy, SETTINGS)
    with torch.no_grad():
        fitting.model.score.weight.fill_(torch.nan)
    with pytest.raises(BadDataError, match=r"the loss of Q is nan .*fitQ\.learningRate"):
        fitting.run(nothing)


def test_a_fit_that_diverges_in_the_last_step_of_an_epoch_names_the_remedy(make_toy: Any, make_policy: Any) -> None:
    fitting = procedure(make_toy, make_policy, SETTINGS)
    fitting.fit.held_out_loss = lambda: math.nan  # type: ignore[method-assign]
    with pytest.raises(BadDataError, match=r"the held-out loss of Q is nan after 12 updates.*fitQ\.learningRate"):
        fitting.run(nothing)


def test_a_fit_that_beats_no_constant_yet_is_not_given_up(make_toy: Any, make_policy: Any) -> None:
    settings = replace(SETTINGS, epochs=5, patience=1, learning_rate=0.01)
    fitting = procedure(make_toy, make_policy, settings)
    losses = iter([0.9, 0.95, 0.92, 0.5, 0.6])
    fitting.fit.held_out_loss = lambda: next(losses)  # type: ignore[method-assign]
    fitting.run(nothing)
    assert [row["held_out_loss"] for row in fitting.curves] == [0.9, 0.95, 0.92, 0.5, 0.6]
    again = procedure(make_toy, make_policy, settings)
    losses = iter([0.5, 0.6])
    again.fit.held_out_loss = lambda: next(losses)  # type: ignore[method-assign]
    again.run(nothing)
    assert len(again.curves) == 2


def test_constant_loss_by_hand() -> None:
    train = Targets(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1.0, 3.0, 0.0]), torch.zeros(3))
    held = Targets(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]), torch.zeros(2))
    assert constant_loss(train, held) == pytest.approx(-(2 * math.log(0.25) + math.log(0.75)) / 3)
