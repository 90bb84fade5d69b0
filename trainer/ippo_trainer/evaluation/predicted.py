"""What Q expects of the candidate, from logged states alone.

It is reported beside the measured lift, so that a Q that promises more than it keeps is seen; it decides nothing. It is
no bound: the error of Q is in it, and the states are those that the current policy met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.packing import Group, pack_batches
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.stats.intervals import Interval, cluster_sums, ratio_interval

MAX_TOKENS = 1 << 14


@dataclass(frozen=True, slots=True)
class Draws:
    """How suggestions are drawn; see `models.sampling.Sampling`."""

    max_new_tokens: int
    temperature: float
    seed: int


def predicted_lift(
    q: Any,
    candidate: Any,
    current: Any,
    conversations: Sequence[Conversation],
    renderer: Any,
    draws: Draws,
    discount: float,
    confidence: float,
) -> Interval:
    """Mean over conversations of sum_t discount^t (E_candidate Q - E_current Q)(s_t).

    One suggestion of each policy is sampled in every logged state.

    Args:
        q: the Q model of the current policy.
        candidate, current: causal LMs.
        conversations: held out of Q's training, at least two, all with turns.
        renderer: of all three models.
        draws: common random numbers for both policies.
        discount: per turn.
        confidence: two-sided level.
    """
    prompts = [
        renderer.prompt(found.turns[:index], turn.customer_message).ids
        for found in conversations
        for index, turn in enumerate(found.turns)
    ]
    lengths = [len(found.turns) for found in conversations]
    clusters = np.repeat(np.arange(len(lengths)), lengths)
    discounts = np.concatenate([discount ** np.arange(length) for length in lengths])
    readings = [_mean_q(q, model, prompts, renderer, draws) for model in (candidate, current)]
    gains = cluster_sums(discounts * (readings[0] - readings[1]), clusters)
    return ratio_interval(gains, np.ones_like(gains), confidence)


def _mean_q(q: Any, model: Any, prompts: list[list[int]], renderer: Any, draws: Draws) -> Any:
    """(prompts,) Q of one sampled suggestion each."""
    keys = [derive_seed(draws.seed, number) for number in range(len(prompts))]
    pad_id = renderer.tokenizer.pad_token_id
    sampling = Sampling(1, draws.max_new_tokens, draws.temperature, renderer.stop_ids, pad_id)
    samples = sample(model, prompts, keys, sampling)
    groups = [Group(prompt, [found[0].ids]) for prompt, found in zip(prompts, samples, strict=True)]
    readings = np.zeros(len(groups))
    device = next(q.parameters()).device
    with torch.inference_mode():
        for numbers, packed in pack_batches(groups, MAX_TOKENS):
            readings[numbers] = read_logits(q, packed.to(device)).q.double().sigmoid().cpu().numpy()
    return readings
