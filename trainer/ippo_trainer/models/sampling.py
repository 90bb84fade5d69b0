"""Samples responses from a causal LM, fast and reproducibly.

A prompt's randomness depends on its key, the number of the sample and the position only, so what is sampled does not
depend on what else is in the batch (up to float rounding in the logits). A policy is sampled with plain temperature, no
top-k and no top-p: they would make log-probabilities that the trainer cannot reproduce. Only an explorer has a min-p.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.models import decoding
from ippo_trainer.models.attention import check_reach
from ippo_trainer.models.cache import PrefixMemory, RaggedCache, Remembered
from ippo_trainer.models.decoding import Decode, Sampled, Sampling, SamplingRequest
from ippo_trainer.models.forks import ForkDecode
from ippo_trainer.models.graphs import GraphDecode
from ippo_trainer.models.memory import free_bytes
from ippo_trainer.models.parts import decoder

__all__ = ["Sampled", "Sampling", "sample"]
# Bounds of one batch on a CPU: beyond, more rows at once are not faster.
_CPU_BATCH_TOKENS = 1 << 16
CPU_BATCH_BYTES = 256 << 20
# Of a logit that is drawn from: in fp32, and its share of the sum in double.
_DRAW_BYTES = 16
# Of a GPU's free memory, for one batch: for keys and values, and for some tables of its logits.
DEVICE_SHARE = 0.4
_TABLES = 5
# Tokens of one prefill forward on a CPU: beyond, the activations leave its caches.
_PREFILL_TOKENS = 2048


@dataclass(slots=True)
class _Trunk:
    """Tokens to run once, for all the prompts (`members`) that are prefixes of them."""

    ids: list[int]
    members: list[int]
    source: Remembered | None
    start: int
    """Tokens that `source` already has."""


def sample(
    model: Any,
    prompts: Sequence[list[int]],
    keys: Sequence[int],
    sampling: Sampling,
    memory: PrefixMemory | None = None,
    slots: Sequence[int] | None = None,
) -> list[list[Sampled]]:
    """Samples responses to prompts.

    Args:
        model: a causal LM that `load.verify` accepts.
        prompts: token ids, none empty.
        keys: one 63-bit key per prompt; equal keys give equal randomness.
        sampling: see there.
        memory: keeps keys and values for the next call; needs `slots`.
        slots: by prompt, whose earlier prompt and response it probably extends, e.g. the conversation's number.

    Returns:
        By prompt, `sampling.samples` responses.

    Raises:
        ValueError: arguments of different lengths, an empty prompt.
        BadDataError: a sequence longer than the model treats every text of a batch alike.
    """
    _check(prompts, keys, memory, slots)
    if not prompts:
        return []
    device = next(model.parameters()).device
    stops = torch.tensor(sorted(sampling.stop_ids), dtype=torch.long, device=device)
    request = SamplingRequest(model, prompts, np.asarray(keys, np.uint64), sampling, stops)
    check_reach(decoder(model), max(map(len, prompts)) + sampling.max_new_tokens)
    remembered = memory.entries if memory is not None else {}
    trunks = _plan(prompts, [remembered.get(slot) for slot in slots or []] or [None] * len(prompts))
    results: list[list[Sampled]] = [[] for _ in prompts]
    latest = PrefixMemory(memory.limit) if memory is not None else None
    budget = sampling.batch_tokens or _batch_tokens(model, max(map(len, prompts)) + sampling.max_new_tokens)
    with torch.inference_mode():
        for decode, batch in _batches(trunks, budget, request):
            run = decode(request, *_prefill(batch, request, budget, decode))
            run.finish()
            for number, response in run.responses():
                results[number].append(response)
            if slots is not None and latest is not None:  # batch by batch: what is over the limit goes at once
                latest.add({slots[number]: entry for number, entry in run.remembered()})
            del run  # before the next batch gets a cache of its own
    if memory is not None and latest is not None:
        memory.renew(latest.entries, set(slots or ()))
    return results


def _check(
    prompts: Sequence[list[int]], keys: Sequence[int], memory: PrefixMemory | None, slots: Sequence[int] | None
) -> None:
    if len(keys) != len(prompts) or (slots is not None and len(slots) != len(prompts)):
        raise ValueError("keys and slots need one entry per prompt")
    if (memory is None) != (slots is None):
        raise ValueError("memory and slots go together")
    if not all(prompts):
        raise ValueError("prompts must not be empty")


def _batch_tokens(model: Any, longest: int) -> int:
    """Rows times columns of one batch, for sequences of at most `longest` tokens."""
    config, weight = model.config, next(model.parameters())
    per_token = token_bytes(config, weight.dtype)
    if weight.device.type == "cpu":
        return max(1, min(_CPU_BATCH_TOKENS, CPU_BATCH_BYTES // per_token))
    drawing = _TABLES * 4 * config.vocab_size / longest  # of each row, by column
    return max(1, int(DEVICE_SHARE * free_bytes(weight.device) / (per_token + drawing)))


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token of one sequence."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)


def _plan(prompts: Sequence[list[int]], sources: Sequence[Remembered | None]) -> list[_Trunk]:
    """Prompts that continue a remembered row run alone; of the others, one that is a prefix of another joins it."""
    trunks: list[_Trunk] = []
    fresh: list[int] = []
    for number, (prompt, source) in enumerate(zip(prompts, sources, strict=True)):
        start = source.shared(prompt) if source is not None else 0
        if start:
            trunks.append(_Trunk(prompt, [number], source, start))
        else:
            fresh.append(number)
    # In lexicographic order, what extends a prompt comes right after it.
    trunk: _Trunk | None = None
    for number in sorted(fresh, key=lambda index: prompts[index], reverse=True):
        prompt = prompts[number]
        if trunk is not None and trunk.ids[: len(prompt)] == prompt:
            trunk.members.append(number)
        else:
            trunk = _Trunk(prompt, [number], None, 0)
            trunks.append(trunk)
    return trunks


def _batches(
    trunks: list[_Trunk], budget: int, request: SamplingRequest
) -> Iterator[tuple[type[Decode], list[_Trunk]]]:
    """Groups trunks of similar length, so that keys and values stay within the budget and what is drawn on a CPU within
    its bounds; cuts those with many members. Says how each group is decoded."""
    sampling, on_cpu = request.sampling, request.device.type == "cpu"
    most_draws = CPU_BATCH_BYTES // _DRAW_BYTES // request.model.config.vocab_size if on_cpu else budget
    batch: list[_Trunk] = []
    rows = 0
    batch_kind: type[Decode] = Decode
    for trunk in sorted(trunks, key=lambda each: (len(each.ids), each.members[0])):
        kind = _decode(len(trunk.ids), sampling, on_cpu)
        columns = kind.capacity(len(trunk.ids), sampling) * kind.copies(sampling)
        limit = max(1, min(budget // columns, most_draws // sampling.samples))
        members = list(trunk.members)
        while members:
            if batch and (rows >= limit or kind is not batch_kind):
                yield batch_kind, batch
                batch, rows = [], 0
            batch_kind = kind
            part, members = members[: limit - rows], members[limit - rows :]
            batch.append(_Trunk(trunk.ids, part, trunk.source, trunk.start))
            rows += len(part)
    if batch:
        yield batch_kind, batch


def _decode(length: int, sampling: Sampling, on_cpu: bool) -> type[Decode]:
    """How to decode after a prompt of `length` tokens."""
    if not on_cpu:
        return GraphDecode
    return ForkDecode if ForkDecode.pays(length, sampling) else Decode


def _prefill(
    batch: list[_Trunk], request: SamplingRequest, budget: int, decode: type[Decode]
) -> tuple[list[int], RaggedCache, Tensor]:
    """Runs the trunks and lays their prompts out for decoding.

    Returns:
        The prompts' numbers, a cache with `decode.copies` rows for each of them in order, and their last hidden states
        (prompts, D).
    """
    layers, copies = request.model.config.num_hidden_layers, decode.copies(request.sampling)
    rows = copies * sum(len(trunk.members) for trunk in batch)
    cache = RaggedCache(layers, rows, decode.capacity(max(len(trunk.ids) for trunk in batch), request.sampling))
    owners: list[int] = []
    last: list[Tensor] = []
    for part in _prefill_parts(batch, _PREFILL_TOKENS if request.device.type == "cpu" else budget):
        first = len(owners) * copies
        width = max(len(trunk.ids) for trunk in part)
        alone = copies == 1 and all(len(trunk.members) == 1 for trunk in part)
        target = cache if alone else RaggedCache(layers, len(part), width + 1)
        states = _run_trunks(part, target, first if alone else 0, request)
        places = [(row, number) for row, trunk in enumerate(part) for number in trunk.members]
        sources = torch.tensor([row for row, _ in places], device=states.device)
        ends = [len(request.prompts[number]) - 1 - part[row].start for row, number in places]
        last.append(states[sources, torch.tensor(ends, device=states.device)])
        if not alone:
            targets = torch.arange(first, first + len(places) * copies, device=states.device)
            cache.copy_from(target, targets, sources.repeat_interleave(copies), width)
        owners += [number for _, number in places]
    return owners, cache, torch.cat(last)


def _prefill_parts(batch: list[_Trunk], budget: int) -> Iterator[list[_Trunk]]:
    part: list[_Trunk] = []
    for trunk in sorted(batch, key=lambda each: (each.start > 0, len(each.ids) - each.start, each.members[0])):
        size = len(trunk.ids) - trunk.start
        # Sorted by size, so this one would be the widest. Rows that start at 0 need no scattered writes: kept apart.
        if part and ((len(part) + 1) * size > budget or (part[0].start > 0) != (trunk.start > 0)):
            yield part
            part = []
        part.append(trunk)
    if part:
        yield part


def _run_trunks(part: list[_Trunk], cache: RaggedCache, first: int, request: SamplingRequest) -> Tensor:
    """Fills the cache's rows from `first` on with the trunks; returns hidden states (rows, n, D) from each start on."""
    device = request.device
    size = max(len(trunk.ids) - trunk.start for trunk in part)
    starts = torch.tensor([trunk.start for trunk in part])
    # Padding goes to places that are not needed yet, at the latest to the last column, which no prompt reaches.
    positions = (starts.unsqueeze(1) + torch.arange(size)).clamp_(max=cache.layers[0].capacity - 1).to(device)
    start = int(starts.max())
    sources: dict[int, tuple[RaggedCache, list[int], list[int]]] = {}
    for row, trunk in enumerate(part):
        if trunk.source is not None and trunk.start:
            entry = sources.setdefault(id(trunk.source.cache), (trunk.source.cache, [], []))
            entry[1].append(first + row)
            entry[2].append(trunk.source.row)
    for source, to_rows, from_rows in sources.values():
        cache.copy_from(source, torch.tensor(to_rows, device=device), torch.tensor(from_rows, device=device), start)
    ids = np.full((len(part), size), request.sampling.pad_id, np.int64)
    for row, trunk in enumerate(part):
        ids[row, : len(trunk.ids) - trunk.start] = trunk.ids[trunk.start :]
    width = max(len(trunk.ids) for trunk in part)
    cache.place(positions, first=first, width=width, plain=not sources)
    return decoding.forward(decoder(request.model), cache, torch.from_numpy(ids).to(device), positions, width)
