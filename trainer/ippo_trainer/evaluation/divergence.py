"""How far a candidate moved: KL(candidate || current) per suggestion, estimated on the candidate's own suggestions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ippo_trainer.data.schema import Conversation
from ippo_trainer.models.packing import Group, pack_batches
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.stats.intervals import Floats, Interval, cluster_sums, ratio_interval

MAX_TOKENS = 1 << 14


def kl_per_suggestion(
    candidate: Any,
    current: Any,
    conversations: Sequence[Conversation],
    renderer: Any,
    temperature: float,
    confidence: float = 0.95,
) -> Interval | None:
    """Mean log-ratio of whole suggestions, in nats, with an interval by conversation: unbiased, as they are samples.

    Args:
        candidate: causal LM that sampled the conversations' suggestions.
        current: causal LM to compare with.
        conversations: with `token_ids`; turns without are left out.
        renderer: of both.
        temperature: both are compared as they are deployed.
        confidence: two-sided level.

    Returns:
        None where fewer than two conversations have tokens.
    """
    groups, owners = [], []
    for number, conversation in enumerate(conversations):
        for index, turn in enumerate(conversation.turns):
            if turn.token_ids:
                prompt = renderer.prompt_at(conversation, index).ids
                groups.append(Group(prompt, [list(turn.token_ids)]))
                owners.append(number)
    clusters = np.unique(owners, return_inverse=True)[1]
    if not len(clusters) or clusters.max() == 0:
        return None
    own, other = suggestion_logprobs([candidate, current], groups, temperature)
    return ratio_interval(cluster_sums(own - other, clusters), np.bincount(clusters), confidence)


def suggestion_logprobs(models: Sequence[Any], groups: Sequence[Group], temperature: float) -> list[Floats]:
    """Log-probabilities of whole suggestions under several models.

    Args:
        models: causal LMs on one device.
        groups: a prompt and one response each.
        temperature: logits are divided by it.

    Returns:
        (groups,) in nats for each model.
    """
    device = next(models[0].parameters()).device
    logprobs = np.zeros((len(models), len(groups)))
    with torch.inference_mode():
        for numbers, packed in pack_batches(groups, MAX_TOKENS):
            packed = packed.to(device)
            for row, model in zip(logprobs, models, strict=True):
                tokens = token_logprobs(model, packed, temperature).logprobs.double()
                sums = torch.zeros(len(numbers), dtype=torch.float64, device=device)
                row[numbers] = sums.index_add(0, packed.response_index, tokens).cpu().numpy()
    return list(logprobs)
