"""Logged states, and responses to them: sampled, scored by Q and laid out for packed forwards."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.packing import Group, PackedBatch, pack_batches
from ippo_trainer.models.parking import device_of, present
from ippo_trainer.models.sampling import Sampled, Sampling, sample
from ippo_trainer.models.scoring import TokenScores, token_logprobs
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.training.distributed import ALONE, Ranks

_CACHED_CONVERSATIONS = 4096


@dataclass(frozen=True, slots=True)
class State:
    """A logged state: the prompt that the policy answers at one turn of a conversation."""

    conversation: str
    turn: int
    prompt: list[int]


class LoggedStates:
    """The states of some conversations, rendered when they are asked for.

    States after the outcome are terminal (Suggested Response MDP: the outcome ends the episode), so they are left out,
    and conversations without any other state with them.
    """

    def __init__(self, conversations: Sequence[Conversation], renderer: Any) -> None:
        self._conversations = [found for found in conversations if found.turns and not found.turns[0].outcome]
        self._renderer = renderer
        self.of = lru_cache(_CACHED_CONVERSATIONS)(self._render)

    def __len__(self) -> int:
        return len(self._conversations)

    def _render(self, number: int) -> tuple[State, ...]:
        """The states of conversation `number`, by turn. BadDataError for a message too long for the context."""
        conversation = self._conversations[number]
        return tuple(
            State(conversation.id, index, self._prompt(conversation, index).ids)
            for index, turn in enumerate(conversation.turns)
            if not turn.outcome
        )

    def _prompt(self, conversation: Conversation, index: int) -> Any:
        return self._renderer.prompt(conversation.turns[:index], conversation.turns[index].customer_message)

    def count_shortened(self) -> int:
        """Conversations of which some prompt lost old turns to fit the context. The last prompt is the longest one."""
        lasts = ((found, sum(not turn.outcome for turn in found.turns) - 1) for found in self._conversations)
        return sum(self._prompt(found, last).dropped_turns > 0 for found, last in lasts)


class BatchStream:
    """An endless stream of batches of conversation numbers: one shuffle after another, any batch by its position."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, min(batch_size, count), seed
        self._order = lru_cache(2)(self._shuffle)

    def batch(self, position: int) -> list[int]:
        """Numbers of batch `position`, counted from 0. A batch may span two shuffles."""
        start = position * self.batch_size
        places = [divmod(index, self.count) for index in range(start, start + self.batch_size)]
        return list(dict.fromkeys(int(self._order(turn)[offset]) for turn, offset in places))

    def _shuffle(self, turn: int) -> Any:
        return np.random.Generator(np.random.Philox(derive_seed(self.seed, "shuffle", turn))).permutation(self.count)


@dataclass(frozen=True, slots=True)
class Part:
    """A packed piece of a minibatch; `rows` are its responses' rows in the rollout's tables."""

    packed: PackedBatch
    rows: slice
    owner: int = 0
    """Rank of the process that runs it."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """N responses of at most T tokens to the states of a batch of conversations.

    Masks are made here, from lengths, and never again. Conversations are never split over minibatches.
    """

    minibatches: list[list[Part]]
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
    def parts(self) -> Iterator[Part]:
        """All parts of all minibatches."""
        return (part for minibatch in self.minibatches for part in minibatch)

    def padded(self, flat: Tensor, part: Part) -> Tensor:
        """(rows, T) of a part's flat (tokens,) values; differentiable, zero where masked."""
        mask = self.mask[part.rows]
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
        stop_ids: tokens that end a suggestion.
        pad_id: fills unused places.
        samples: responses per state.
        max_new_tokens: a response without a stop token by then is truncated.
        temperature: of sampling, and of every log-probability of the policy and of the reference.
        seed: randomness depends on it and on (purpose, conversation, turn, sample, position) only.
        max_tokens: of one packed forward.
        ranks: the processes that sample and score together.
    """

    def __init__(
        self,
        q: Any,
        *,
        stop_ids: AbstractSet[int],
        pad_id: int,
        samples: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        max_tokens: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.q, self.stop_ids, self.pad_id = q, stop_ids, pad_id
        self.samples, self.max_new_tokens, self.temperature = samples, max_new_tokens, temperature
        self.seed, self.max_tokens, self.ranks = seed, max_tokens, ranks

    def draw(
        self, policy: Any, conversations: Sequence[Sequence[State]], purpose: str, minibatches: int = 1
    ) -> Rollout:
        """Samples from `policy` at every state of the conversations and scores the responses.

        Args:
            purpose: names the random stream; equal purposes give equal uniforms.
            minibatches: consecutive conversations are dealt over this many, at most one each.
        """
        states = [state for conversation in conversations for state in conversation]
        sampling = Sampling(self.samples, self.max_new_tokens, self.temperature, self.stop_ids, self.pad_id)
        with present(policy):
            sampled = sample_states(policy, conversations, sampling, self.seed, purpose, self.ranks)
        device = device_of(policy)
        return self._lay_out(conversations, states, sampled, min(minibatches, len(conversations)), device)

    def logprobs(self, model: Any, rollout: Rollout) -> TokenScores:
        """Log-probabilities and entropies, (N, T), of the rollout's tokens under `model`, without gradient."""
        logprobs, entropy = (torch.zeros(rollout.mask.shape, device=rollout.mask.device) for _ in range(2))
        with torch.no_grad(), present(model):
            for part, counts in self.ranks.share(list(rollout.parts)):
                scores = self.ranks.call(token_logprobs, model, part.packed, self.temperature)
                if counts:
                    logprobs[part.rows] = rollout.padded(scores.logprobs, part)
                    entropy[part.rows] = rollout.padded(scores.entropy, part)
        self.ranks.sum(logprobs, entropy)
        return TokenScores(logprobs, entropy)

    def _lay_out(
        self,
        conversations: Sequence[Sequence[State]],
        states: list[State],
        sampled: list[list[Sampled]],
        minibatches: int,
        device: torch.device,
    ) -> Rollout:
        groups = [
            Group(state.prompt, [response.ids for response in responses])
            for state, responses in zip(states, sampled, strict=True)
        ]
        clusters = np.repeat(np.arange(len(conversations)), [len(conversation) for conversation in conversations])
        edges = np.concatenate([[0], np.cumsum([len(conversation) for conversation in conversations])])
        cuts = edges[np.linspace(0, len(conversations), minibatches + 1).round().astype(int)].tolist()
        dealt, order, row = [], [], 0
        for start, end in pairwise(cuts):
            minibatch = []
            for owner, (low, high) in enumerate(self._shares(start, end)):
                for numbers, packed in pack_batches(groups[low:high], self.max_tokens):
                    count = len(packed.lengths)
                    minibatch.append(Part(packed.to(device), slice(row, row + count), owner))
                    order += [low + number for number in numbers]
                    row += count
            dealt.append(minibatch)
        responses = [response for number in order for response in sampled[number]]
        mask, logprobs = _tables(responses, device)
        owners = np.repeat(order, self.samples)
        scores, baselines = self._score([part for minibatch in dealt for part in minibatch], owners, device)
        return Rollout(
            minibatches=dealt,
            mask=mask,
            sampler_logprobs=logprobs,
            ended=torch.tensor([response.ended for response in responses], device=device),
            scores=scores,
            baselines=baselines,
            states=torch.from_numpy(owners).to(device),
            clusters=torch.from_numpy(clusters[owners]).to(device),
        )

    def _shares(self, start: int, end: int) -> list[tuple[int, int]]:
        """Which of the states from `start` to `end` each process runs forwards on: about equally many."""
        cuts = np.linspace(start, end, self.ranks.size + 1).round().astype(int).tolist()
        return list(pairwise(cuts))

    def _score(self, parts: list[Part], owners: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Q of every response and V of its state, (N,) each."""
        scores, baselines = (torch.zeros(len(owners), device=device) for _ in range(2))
        with torch.no_grad(), present(self.q):
            for part, counts in self.ranks.share(parts):
                logits = self.ranks.call(read_logits, self.q, part.packed)
                if counts:
                    scores[part.rows] = logits.q.sigmoid()
                    baselines[part.rows] = logits.v.sigmoid()[part.packed.group_index]
        self.ranks.sum(scores, baselines)
        return scores, baselines


def sample_states(
    model: Any,
    conversations: Sequence[Sequence[State]],
    sampling: Sampling,
    seed: int,
    purpose: str,
    ranks: Ranks = ALONE,
) -> list[list[Sampled]]:
    """Responses of a model to the states of conversations, by state in their order.

    Each process samples every n-th conversation, whose states share what they compute. Randomness depends on (seed,
    purpose, conversation, turn) only.
    """
    states = [state for conversation in conversations[ranks.rank :: ranks.size] for state in conversation]
    prompts = [state.prompt for state in states]
    keys = [derive_seed(seed, purpose, state.conversation, state.turn) for state in states]
    sampled = ranks.with_whole(sample, model, prompts, keys, sampling)
    if ranks.size == 1:
        return sampled
    told: list[Any] = ranks.gathered([[[each.ids, each.logprobs, each.ended] for each in found] for found in sampled])
    shares = [iter(share) for share in told]
    return [
        [Sampled(*response) for response in next(shares[number % ranks.size])]
        for number, conversation in enumerate(conversations)
        for _ in conversation
    ]


def _tables(responses: list[Sampled], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mask and sampler's log-probabilities, (N, T)."""
    lengths = torch.tensor([len(response.ids) for response in responses])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    flat = torch.tensor([logprob for response in responses for logprob in response.logprobs], dtype=torch.float32)
    return mask.to(device), torch.zeros(mask.shape).masked_scatter(mask, flat).to(device)
