"""Responses to logged states: sampled, scored by Q and laid out for packed forwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.engines.interface import PolicySampler
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.improve.pieces import PackedResponses, deal
from ippo_trainer.improve.states import LoggedState
from ippo_trainer.models.packing import Group
from ippo_trainer.models.parking import device_of, present
from ippo_trainer.models.sampling import Sampled, Sampling
from ippo_trainer.models.scoring import TokenScores, token_logprobs
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.training.distributed import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class ResponseBatch:
    """N responses of at most T tokens to the states of a batch of conversations.

    Masks are made here, from lengths, and never again. Conversations are never split over minibatches.
    """

    minibatches: list[list[PackedResponses]]
    mask: Tensor
    """(N, T) bool, true on response tokens, the end token included."""
    sampler_logprobs: Tensor
    """(N, T) under the sampler, after temperature."""
    ended: Tensor
    """(N,) bool: a stop token was drawn."""
    scores: Tensor
    """(N,) Q(state, response) in [0, 1]."""
    baselines: Tensor
    """(N,) the Q model's own V(state) in [0, 1]."""
    states: Tensor
    """(N,) number of the state within the batch, in the order given."""
    clusters: Tensor
    """(N,) number of the conversation within the batch, in the order given."""

    @property
    def pieces(self) -> list[PackedResponses]:
        """All pieces of all minibatches."""
        return [piece for minibatch in self.minibatches for piece in minibatch]

    def padded(self, flat: Tensor, piece: PackedResponses) -> Tensor:
        """(rows, T) of a piece's flat (tokens,) values; differentiable, zero where masked."""
        mask = self.mask[piece.rows]
        return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

    def state_means(self, values: Tensor) -> Tensor:
        """(states,) mean of `values` (N,) over the responses to each state."""
        count = torch.bincount(self.states)
        return (
            torch.zeros(len(count), dtype=values.dtype, device=values.device).index_add(0, self.states, values) / count
        )

    def state_variances(self, values: Tensor) -> Tensor:
        """(states,) variance of `values` (N,) over the responses to each state (divided by their number)."""
        return self.state_means((values - self.state_means(values)[self.states]).square())


class Sampler:
    """Draws responses from a policy and scores them by Q.

    Args:
        q: the Q model, frozen.
        sampling: of responses to a state; its temperature is that of all log-probabilities, too.
        seed: randomness depends on it and on (purpose, conversation, turn, sample, position) only.
        max_tokens: of one packed forward.
        ranks: the processes that sample and score together.
        engine: samples; every policy is handed over to it first. None: our own forwards.
    """

    def __init__(
        self,
        q: Any,
        sampling: Sampling,
        seed: int,
        max_tokens: int,
        ranks: Ranks = ALONE,
        engine: PolicySampler | None = None,
    ) -> None:
        self.q, self.sampling, self.seed, self.max_tokens, self.ranks = q, sampling, seed, max_tokens, ranks
        self.engine = engine

    def draw(
        self, policy: Any, conversations: Sequence[Sequence[LoggedState]], purpose: str, minibatches: int = 1
    ) -> ResponseBatch:
        """Samples from `policy` at every state of the conversations and scores the responses.

        Args:
            purpose: names the random stream; equal purposes give equal uniforms.
            minibatches: consecutive conversations are dealt over this many, at most one each.
        """
        return self.lay_out(conversations, self.sample(policy, conversations, purpose), minibatches)

    def sample(self, policy: Any, conversations: Sequence[Sequence[LoggedState]], purpose: str) -> list[list[Sampled]]:
        """Responses of `policy` by state, the states of all conversations in a row; see `draw`."""
        with present(policy):
            return self.ranks.with_whole(self._sample, policy, conversations, purpose)

    def _sample(self, policy: Any, conversations: Sequence[Sequence[LoggedState]], purpose: str) -> list[list[Sampled]]:
        """Each rank samples every n-th conversation: their states share what they compute."""
        ranks = self.ranks
        states = [state for conversation in conversations[ranks.rank :: ranks.size] for state in conversation]
        keys = [derive_seed(self.seed, purpose, state.conversation, state.turn) for state in states]
        engine = self.engine or TransformersSampler(policy)
        engine.take(policy)
        sampled = engine.sample([state.prompt for state in states], keys, self.sampling)
        if ranks.size == 1:
            return sampled
        by_rank: list[Any] = ranks.gathered(
            [[[each.ids, each.logprobs, each.ended] for each in responses] for responses in sampled]
        )
        shares = [iter(share) for share in by_rank]
        return [
            [Sampled(*response) for response in next(shares[number % ranks.size])]
            for number, conversation in enumerate(conversations)
            for _ in conversation
        ]

    def logprobs(self, model: Any, batch: ResponseBatch) -> TokenScores:
        """Log-probabilities and entropies, (N, T), of the batch's tokens under `model`, without gradient."""
        logprobs, entropy = (torch.zeros(batch.mask.shape, device=batch.mask.device) for _ in range(2))
        with torch.no_grad(), present(model):
            for piece, counts in self.ranks.share(batch.pieces):
                scores = self.ranks.call(token_logprobs, model, piece.packed, self.sampling.temperature)
                if counts:
                    logprobs[piece.rows] = batch.padded(scores.logprobs, piece)
                    entropy[piece.rows] = batch.padded(scores.entropy, piece)
        self.ranks.sum(logprobs, entropy)
        return TokenScores(logprobs, entropy)

    def lay_out(
        self, conversations: Sequence[Sequence[LoggedState]], responses: Sequence[Sequence[Sampled]], minibatches: int
    ) -> ResponseBatch:
        """Packs and scores responses, at least one to each state, in the order of `sample`; see `draw`."""
        states = [state for conversation in conversations for state in conversation]
        groups = [
            Group(state.prompt, [response.ids for response in to_state])
            for state, to_state in zip(states, responses, strict=True)
        ]
        edges = np.concatenate([[0], np.cumsum([len(conversation) for conversation in conversations])])
        count = min(minibatches, len(conversations))
        cuts = edges[np.linspace(0, len(conversations), count + 1).round().astype(int)].tolist()
        device = device_of(self.q)
        dealt: list[list[PackedResponses]] = []
        order: list[int] = []
        for start, end in pairwise(cuts):
            first_row = sum(len(responses[number]) for number in order)
            pieces, numbers = deal(groups[start:end], self.ranks.size, self.max_tokens, device, first_row)
            dealt.append(pieces)
            order += [start + number for number in numbers]
        ordered = [response for number in order for response in responses[number]]
        mask, logprobs = _tables(ordered, device)
        owners = np.repeat(order, [len(responses[number]) for number in order])
        clusters = np.repeat(np.arange(len(conversations)), [len(conversation) for conversation in conversations])
        scores, baselines = self._score([piece for minibatch in dealt for piece in minibatch], owners, device)
        return ResponseBatch(
            minibatches=dealt,
            mask=mask,
            sampler_logprobs=logprobs,
            ended=torch.tensor([response.ended for response in ordered], device=device),
            scores=scores,
            baselines=baselines,
            states=torch.from_numpy(owners).to(device),
            clusters=torch.from_numpy(clusters[owners]).to(device),
        )

    def score(self, groups: Sequence[Group]) -> list[list[float]]:
        """Q in [0, 1] of every response of every group."""
        if not groups:
            return []
        device = device_of(self.q)
        pieces, order = deal(groups, self.ranks.size, self.max_tokens, device)
        owners = np.repeat(order, [len(groups[number].responses) for number in order])
        values = iter(self._score(pieces, owners, device)[0].tolist())
        by_group = {number: [next(values) for _ in groups[number].responses] for number in order}
        return [by_group[number] for number in range(len(groups))]

    def _score(self, pieces: list[PackedResponses], owners: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Q of every response and V of its state, (N,) each."""
        scores, baselines = (torch.zeros(len(owners), device=device) for _ in range(2))
        with torch.no_grad(), present(self.q):
            for piece, counts in self.ranks.share(pieces):
                logits = self.ranks.call(read_logits, self.q, piece.packed)
                if counts:
                    scores[piece.rows] = logits.q.sigmoid()
                    baselines[piece.rows] = logits.v.sigmoid()[piece.packed.group_index]
        self.ranks.sum(scores, baselines)
        return scores, baselines


def _tables(responses: list[Sampled], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mask and sampler's log-probabilities, (N, T)."""
    lengths = torch.tensor([len(response.ids) for response in responses])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    flat = torch.tensor([logprob for response in responses for logprob in response.logprobs], dtype=torch.float32)
    return mask.to(device), torch.zeros(mask.shape).masked_scatter(mask, flat).to(device)
