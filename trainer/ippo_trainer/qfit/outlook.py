"""What a place in a conversation tells of what will be said: the auxiliary loss that shapes the features of Q's trunk.

Next-token prediction teaches the trunk how customers answer, but not to know it at a suggestion's last token, where Q
is read: the tokens of the answer can look the suggestion up. So these places predict, too, which words come: at a
suggestion's end those up to the next prompt, at a prompt's end those of the rest of the conversation. That is far more
than the one bit of an outcome, and it is what the outcome depends on: a successor representation (Dayan 1993; successor
features: Barreto et al., arXiv 1606.05312) whose features are words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ippo_trainer.models.packing import Group
from ippo_trainer.models.scoring import logit_chunk


@dataclass(frozen=True, slots=True)
class Words:
    """Distinct tokens that come after each of N places, flat."""

    tokens: Tensor
    """(B,) int64, place by place."""
    counts: list[int]
    """(N,) tokens of each place; 0 where nothing is known of what comes."""

    @staticmethod
    def of(places: Sequence[Sequence[int]]) -> "Words":
        """From tokens by place."""
        flat = [token for tokens in places for token in tokens]
        return Words(torch.tensor(flat, dtype=torch.int64), [len(tokens) for tokens in places])

    def to(self, device: torch.device) -> "Words":
        """The same on another device."""
        return Words(self.tokens.to(device), self.counts)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was said after each of N turns."""

    reply: Words
    """After its suggestion, up to the next prompt."""
    rest: Words
    """After its prompt, to the end."""

    def to(self, device: torch.device) -> "Ahead":
        """The same on another device."""
        return Ahead(self.reply.to(device), self.rest.to(device))


class LanguageHead(nn.Module):
    """Reads words from hidden states: the next one at every token, and those to come at the places where Q and V are
    read, through a linear map each.

    Args:
        output: linear map (D) -> (vocabulary).
        width: D.
    """

    def __init__(self, output: Any, width: int) -> None:
        super().__init__()
        self.output = output
        place = {"device": output.weight.device, "dtype": output.weight.dtype}
        self.reply, self.rest = (nn.Linear(width, width, bias=False, **place) for _ in range(2))
        for each in (self.reply, self.rest):
            nn.init.eye_(each.weight)


def words_ahead(groups: Sequence[Group]) -> tuple[list[list[int]], list[list[int]]]:
    """Of each turn of a conversation, the distinct tokens up to the next prompt and those of the rest.

    Its own suggestion is left out, as far as it was sent. Nothing is known of what comes after the last turn.

    Args:
        groups: the conversation's turns in order, one response each.
    """
    replies, rests = [], []
    rest: set[int] = set()
    for number in reversed(range(len(groups))):
        said = _said(groups[number], groups[number + 1]) if number + 1 < len(groups) else set()
        rest, own = rest | said, set(groups[number].responses[0][:-1])
        replies.append(sorted(said - own))
        rests.append(sorted(rest - own))
    return replies[::-1], rests[::-1]


def _said(group: Group, following: Group) -> set[int]:
    """Tokens that the next prompt has more. Where it dropped old turns, those that this one has not."""
    if following.prompt[: len(group.prompt)] == group.prompt:
        return set(following.prompt[len(group.prompt) :])
    return set(following.prompt) - set(group.prompt)


def word_loss(states: Tensor, output: Any, words: Words) -> Tensor:
    """Sum over the places of the mean cross-entropy of their words, in nats; differentiable.

    Args:
        states: (N, D) of the places.
        output: linear map to the vocabulary.
        words: of the places.
    """
    total = torch.zeros((), device=states.device)
    chunk, start = logit_chunk(output, states), 0
    for first in range(0, len(states), chunk):
        counts = words.counts[first : first + chunk]
        stop = start + sum(counts)
        piece = states[first : first + chunk], output, words.tokens[start:stop], counts
        whole = chunk >= len(states)
        total = total + (_loss(*piece) if whole else checkpoint(_loss, *piece, use_reentrant=False))
        start = stop
    return total


def _loss(states: Tensor, output: Any, tokens: Tensor, counts: list[int]) -> Tensor:
    """`word_loss` with all logits at once."""
    logits = output(states).float()
    size = torch.tensor(counts, device=states.device)
    rows = torch.arange(len(counts), device=states.device).repeat_interleave(size, output_size=len(tokens))
    surprise = logits.logsumexp(-1)[rows] - logits[rows, tokens]
    loss: Tensor = (surprise / size[rows]).sum()
    return loss
