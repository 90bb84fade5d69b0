"""What comes after suggestions and prompts, and the loss of predicting it."""

import pytest
import torch
from ippo_trainer.models import scoring
from ippo_trainer.models.packing import Group
from ippo_trainer.qfit.outlook import Words, word_loss, words_ahead
from torch import nn
from torch.nn import functional

GROUPS = [
    Group([1, 2], [[10, 11, 99]]),
    Group([1, 2, 10, 11, 99, 20, 21], [[12, 99]]),  # what was suggested was sent
    Group([1, 2, 10, 11, 99, 20, 21, 13, 99, 22, 20], [[14, 99]]),  # something else was sent
]


def test_words_ahead_are_those_of_the_next_prompt_and_of_the_rest() -> None:
    replies, rests = words_ahead(GROUPS)
    # The end of a message stays: it is no word of the suggestion's own.
    assert replies == [[20, 21, 99], [13, 20, 22, 99], []]
    assert rests == [[13, 20, 21, 22, 99], [13, 20, 22, 99], []]


def test_a_prompt_without_old_turns_gives_what_is_new_in_it() -> None:
    replies, rests = words_ahead([GROUPS[0], Group([2, 20, 7], [[12, 99]])])
    assert replies == [[7, 20], []]
    assert rests == [[7, 20], []]


def test_nothing_comes_after_a_conversation_of_one_turn() -> None:
    assert words_ahead(GROUPS[:1]) == ([[]], [[]])


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_loss_is_the_mean_over_words_summed_over_places(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    torch.manual_seed(0)
    output = nn.Linear(8, 30)
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", at_once * 30)
    states = torch.randn(5, 8, requires_grad=True)
    places = [[3], [], [1, 2, 29], [0, 5], []]
    expected = torch.zeros((), dtype=torch.float64)
    for state, tokens in zip(states.double(), places, strict=True):
        logprobs = functional.log_softmax(state @ output.weight.double().T + output.bias.double(), 0)
        expected = expected - (logprobs[tokens].mean() if tokens else 0)
    loss = word_loss(states, output, Words.of(places))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    got, wanted = (torch.autograd.grad(each, states, retain_graph=True)[0] for each in (loss, expected))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_places_without_words_cost_nothing() -> None:
    loss = word_loss(torch.randn(2, 8), nn.Linear(8, 30), Words.of([[], []]))
    assert float(loss.detach()) == 0.0
