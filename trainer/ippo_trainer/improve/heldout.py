"""How much better a policy is on held-out states, in the terms of Theorem 2: E[Q] against pi_i, and the KL to it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.improve.maths import log_ratio, response_sums
from ippo_trainer.improve.sampler import ResponseBatch, Sampler
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.stats.intervals import Floats, Interval, ratio_interval


@dataclass(frozen=True, slots=True)
class HeldOutSums:
    """Sums by conversation, (C,) float64 each."""

    q: Floats
    """Of E[Q(state, response)] over the conversation's states."""
    states: Floats
    """Number of states."""
    kl: Floats
    """Of the k1 estimate of KL(policy || pi_i), nats, over its responses; 0 for pi_i itself."""
    responses: Floats
    """Number of responses."""
    tokens: Floats
    """Number of response tokens."""
    truncated: Floats
    """Number of responses without an end."""

    @staticmethod
    def joined(parts: "Sequence[HeldOutSums]") -> "HeldOutSums":
        """Of all conversations of the parts, in order."""
        return HeldOutSums(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(HeldOutSums))
        )

    def mean_kl(self) -> Interval:
        """Nats per suggestion."""
        return ratio_interval(self.kl, self.responses)

    def lift_over(self, other: "HeldOutSums") -> Interval:
        """Mean over states of E[Q] less that of another policy on the same states; interval by conversation."""
        return ratio_interval(self.q - other.q, self.states)


class HeldOut:
    """Some conversations' states on which policies are compared; nobody trains on them.

    Every policy is sampled with the same uniforms, so that the differences have little noise.
    """

    def __init__(
        self, sampler: Sampler, states: LoggedStates, numbers: Sequence[int], batch_size: int, purpose: str
    ) -> None:
        self.sampler, self.states, self.numbers = sampler, states, list(numbers)
        self.batch_size, self.purpose = batch_size, purpose

    def __len__(self) -> int:
        return len(self.numbers)

    def measure(self, policy: Any, reference: Any | None) -> HeldOutSums:
        """Samples `policy` on all the states; `reference` is pi_i, None where the policy is pi_i itself."""
        pieces = []
        for start in range(0, len(self.numbers), self.batch_size):
            conversations = [self.states.of(number) for number in self.numbers[start : start + self.batch_size]]
            batch = self.sampler.draw(policy, conversations, self.purpose)
            kl = torch.zeros(len(batch.scores), device=batch.scores.device)
            if reference is not None:
                own, other = (self.sampler.logprobs(model, batch).logprobs for model in (policy, reference))
                kl = response_sums(log_ratio(own, other), batch.mask)
            pieces.append(_by_conversation(batch, kl, self.sampler.sampling.samples))
        return HeldOutSums(*np.concatenate(pieces, axis=1))


def _by_conversation(batch: ResponseBatch, kl: Tensor, samples: int) -> Floats:
    """(6, conversations): the fields of HeldOutSums, in order."""
    clusters = batch.clusters.cpu().numpy()
    ones = torch.ones_like(kl)
    columns = [
        batch.scores.double() / samples,
        ones.double() / samples,
        kl,
        ones,
        batch.mask.sum(1),
        (~batch.ended),
    ]
    return np.stack([np.bincount(clusters, weights=column.double().cpu().numpy()) for column in columns])
