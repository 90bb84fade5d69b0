"""Samples responses from a causal LM, fast on a CPU and reproducibly.

A prompt's randomness depends on its key, the number of the sample and the position only, so what is sampled does not
depend on what else is in the batch (up to float rounding in the logits). Plain temperature, no top-k and no top-p:
they would make log-probabilities that the trainer cannot reproduce.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.models.attention import attention_mask, check_reach
from ippo_trainer.models.cache import PrefixMemory, RaggedCache, Remembered
from ippo_trainer.models.parts import decoder

# Bounds of one batch: beyond, more rows at once are not faster (a CPU), or do not fit beside the model.
_MAX_BATCH_TOKENS = 1 << 16
_CPU_BATCH_BYTES = 256 << 20
_DEVICE_BATCH_BYTES = 4 << 30
# Tokens of one prefill forward on a CPU: beyond, the activations leave its caches.
_PREFILL_TOKENS = 2048
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One response.

    Args:
        ids: tokens, the stop token included.
        logprobs: of each token under the sampler, after temperature, in nats.
        ended: False if it was cut off after max_new_tokens.
    """

    ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True, slots=True)
class _Request:
    model: Any
    prompts: Sequence[list[int]]
    samples: int
    max_new_tokens: int
    temperature: float
    stops: Tensor
    pad_id: int
    keys: NDArray[np.uint64]
    batch_tokens: int

    @property
    def decoder(self) -> Any:
        return decoder(self.model)


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
    *,
    samples_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    stop_ids: AbstractSet[int],
    pad_id: int,
    uniforms_key: Sequence[int],
    batch_tokens: int | None = None,
    memory: PrefixMemory | None = None,
    slots: Sequence[int] | None = None,
) -> list[list[Sampled]]:
    """Samples responses to prompts.

    Args:
        model: a causal LM that `load.verify` accepts.
        prompts: token ids, none empty.
        temperature: > 0.
        stop_ids: a response ends with the first of these.
        pad_id: fills unused places; never seen.
        uniforms_key: one 63-bit key per prompt; equal keys give equal randomness.
        batch_tokens: bound on the rows times columns of keys and values held at once (at least one row is held);
            None takes what suits the model and its device.
        memory: keeps keys and values for the next call; needs `slots`.
        slots: by prompt, whose earlier prompt and response it probably extends, e.g. the conversation's number.

    Returns:
        By prompt, `samples_per_prompt` responses.

    Raises:
        ValueError: arguments of different lengths, an empty prompt, a temperature that is not positive.
        BadDataError: a sequence longer than the model treats every text of a batch alike.
    """
    _check(prompts, samples_per_prompt, max_new_tokens, temperature, uniforms_key, memory, slots)
    if not prompts:
        return []
    device = next(model.parameters()).device
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    keys = np.asarray(uniforms_key, np.uint64)
    budget = batch_tokens or _batch_tokens(model)
    request = _Request(model, prompts, samples_per_prompt, max_new_tokens, temperature, stops, pad_id, keys, budget)
    check_reach(request.decoder, max(map(len, prompts)) + max_new_tokens)
    known = memory.entries if memory is not None else {}
    trunks = _plan(prompts, [known.get(slot) for slot in slots or []] or [None] * len(prompts))
    results: list[list[Sampled]] = [[] for _ in prompts]
    found: dict[int, Remembered] = {}
    with torch.inference_mode():
        for batch in _batches(trunks, request):
            run = _Decode(request, *_prefill(batch, request))
            run.finish()
            for number, responses in run.responses():
                results[number].append(responses)
            if slots is not None and memory is not None:
                found |= {slots[number]: entry for number, entry in run.remembered()}
    if memory is not None:
        memory.replace(found)
    return results


def _check(
    prompts: Sequence[list[int]],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    keys: Sequence[int],
    memory: PrefixMemory | None,
    slots: Sequence[int] | None,
) -> None:
    if len(keys) != len(prompts) or (slots is not None and len(slots) != len(prompts)):
        raise ValueError("uniforms_key and slots need one entry per prompt")
    if (memory is None) != (slots is None):
        raise ValueError("memory and slots go together")
    if not all(prompts) or samples < 1 or max_new_tokens < 1 or not temperature > 0:
        raise ValueError("prompts must not be empty; samples, new tokens and temperature must be positive")


def _batch_tokens(model: Any) -> int:
    config, weight = model.config, next(model.parameters())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * width * weight.element_size()
    limit = _CPU_BATCH_BYTES if weight.device.type == "cpu" else _DEVICE_BATCH_BYTES
    return max(1, min(_MAX_BATCH_TOKENS, limit // int(per_token)))


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


def _batches(trunks: list[_Trunk], request: _Request) -> Iterator[list[_Trunk]]:
    """Groups trunks of similar length so that keys and values stay within the budget; cuts those with many members."""
    batch: list[_Trunk] = []
    rows = 0
    for trunk in sorted(trunks, key=lambda each: (len(each.ids), each.members[0])):
        limit = max(1, request.batch_tokens // (len(trunk.ids) + request.max_new_tokens) // request.samples)
        members = list(trunk.members)
        while members:
            if rows >= limit:
                yield batch
                batch, rows = [], 0
            part, members = members[: limit - rows], members[limit - rows :]
            batch.append(_Trunk(trunk.ids, part, trunk.source, trunk.start))
            rows += len(part)
    if batch:
        yield batch


def _prefill(batch: list[_Trunk], request: _Request) -> tuple[list[int], RaggedCache, Tensor]:
    """Runs the trunks and lays their prompts out for decoding.

    Returns:
        The prompts' numbers, a cache with `samples` rows for each of them in order, and their last hidden states
        (prompts, D).
    """
    layers, samples = request.model.config.num_hidden_layers, request.samples
    count = sum(len(trunk.members) for trunk in batch)
    cache = RaggedCache(layers, count * samples, max(len(trunk.ids) for trunk in batch) + request.max_new_tokens)
    owners: list[int] = []
    last: list[Tensor] = []
    for part in _prefill_parts(batch, request):
        first = len(owners) * samples
        width = max(len(trunk.ids) for trunk in part)
        alone = samples == 1 and all(len(trunk.members) == 1 for trunk in part)
        made = cache if alone else RaggedCache(layers, len(part), width + 1)
        states = _run_trunks(part, made, first if alone else 0, request)
        places = [(row, number) for row, trunk in enumerate(part) for number in trunk.members]
        rows = torch.tensor([row for row, _ in places], device=states.device)
        ends = [len(request.prompts[number]) - 1 - part[row].start for row, number in places]
        last.append(states[rows, torch.tensor(ends, device=states.device)])
        if not alone:
            targets = torch.arange(first, first + len(places) * samples, device=states.device)
            cache.copy_from(made, targets, rows.repeat_interleave(samples), width)
        owners += [number for _, number in places]
    return owners, cache, torch.cat(last)


def _prefill_parts(batch: list[_Trunk], request: _Request) -> Iterator[list[_Trunk]]:
    budget = _PREFILL_TOKENS if next(request.model.parameters()).device.type == "cpu" else request.batch_tokens
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


def _run_trunks(part: list[_Trunk], cache: RaggedCache, first: int, request: _Request) -> Tensor:
    """Fills the cache's rows from `first` on with the trunks; returns hidden states (rows, n, D) from each start on."""
    device = next(request.model.parameters()).device
    size = max(len(trunk.ids) - trunk.start for trunk in part)
    starts = torch.tensor([trunk.start for trunk in part])
    # Padding goes to places that are not needed yet, at the latest to the last column, which no prompt reaches.
    positions = (starts.unsqueeze(1) + torch.arange(size)).clamp_(max=cache.layers[0].capacity - 1).to(device)
    known = int(starts.max())
    sources: dict[int, tuple[RaggedCache, list[int], list[int]]] = {}
    for row, trunk in enumerate(part):
        if trunk.source is not None and trunk.start:
            entry = sources.setdefault(id(trunk.source.cache), (trunk.source.cache, [], []))
            entry[1].append(first + row)
            entry[2].append(trunk.source.row)
    for source, to_rows, from_rows in sources.values():
        cache.copy_from(source, torch.tensor(to_rows, device=device), torch.tensor(from_rows, device=device), known)
    ids = np.full((len(part), size), request.pad_id, np.int64)
    for row, trunk in enumerate(part):
        ids[row, : len(trunk.ids) - trunk.start] = trunk.ids[trunk.start :]
    width = max(len(trunk.ids) for trunk in part)
    cache.place(positions, first=first, width=width, plain=not sources)
    return forward(request.decoder, cache, torch.from_numpy(ids).to(device), positions, width)


def forward(trunk: Any, cache: RaggedCache, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
    """Runs `tokens` (n, tokens) where the cache was told to place them; returns hidden states (n, tokens, D)."""
    columns = torch.arange(width, device=tokens.device)
    seen = columns <= positions.unsqueeze(-1)
    mask = attention_mask(trunk, seen, positions, columns.unsqueeze(0), width)
    output = trunk(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    states: Tensor = output.last_hidden_state
    return states


class _Decode:
    """Draws one token after another for the rows of one batch; rows that are done leave it."""

    def __init__(self, request: _Request, owners: list[int], cache: RaggedCache, last: Tensor) -> None:
        self.request = request
        self.owners = np.repeat(np.array(owners, np.int64), request.samples)  # the prompt of each response
        self.device = last.device
        self.states = last.repeat_interleave(request.samples, 0)
        self.cache = cache
        self.response = np.arange(len(self.owners))  # the response in each row of the cache
        self.running = len(self.owners)  # the first rows are the running ones
        self.lengths = np.array([len(request.prompts[number]) for number in self.owners.tolist()], np.int64)
        shape = (len(self.owners), request.max_new_tokens)
        self.tokens = np.full(shape, request.pad_id, np.int64)
        self.logprobs = np.zeros(shape, np.float32)
        self.sizes = np.zeros(len(self.owners), np.int64)
        self.ended = np.zeros(len(self.owners), bool)
        numbers = np.tile(np.arange(request.samples), len(owners))
        self.uniforms = torch.from_numpy(uniforms(request.keys[self.owners], numbers, shape[1])).to(self.device)

    def finish(self) -> None:
        """Decodes until every row has ended or is full."""
        for step in range(self.request.max_new_tokens):
            responses = self.response[: self.running]
            drawn, logprobs, stopped = self._draw(responses, step)
            self.tokens[responses, step] = drawn.numpy(force=True)
            self.logprobs[responses, step] = logprobs.numpy(force=True)
            self.sizes[responses] = step + 1
            self.ended[responses] = stopped.numpy(force=True)
            self._drop(stopped.numpy(force=True), step)
            if step + 1 == self.request.max_new_tokens or not self.running:
                break
            self._advance(step)

    def responses(self) -> Iterator[tuple[int, Sampled]]:
        """(prompt, response) of every row, samples in order."""
        tokens, logprobs = self.tokens.tolist(), self.logprobs.tolist()
        for row, (owner, size, ended) in enumerate(
            zip(self.owners.tolist(), self.sizes.tolist(), self.ended.tolist(), strict=True)
        ):
            yield owner, Sampled(tokens[row][:size], logprobs[row][:size], ended)

    def remembered(self) -> Iterator[tuple[int, Remembered]]:
        """(prompt, where its keys and values and those of its first response are)."""
        for row, response in enumerate(self.response.tolist()):
            if response % self.request.samples == 0:
                owner = int(self.owners[response])
                # The last token was drawn but never run.
                ids = self.request.prompts[owner] + self.tokens[response, : self.sizes[response] - 1].tolist()
                yield owner, Remembered(ids, self.cache, row)

    def _draw(self, responses: NDArray[np.int64], step: int) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.request.model.get_output_embeddings()(self.states).float() / self.request.temperature
        table = logits.log_softmax(-1)
        # Sums in double: with a large vocabulary, fp32 sums would bias the rare tokens.
        heights = table.double().exp_().cumsum_(-1)
        levels = self.uniforms[torch.from_numpy(responses).to(self.device), step] * heights[:, -1]
        drawn = torch.searchsorted(heights, levels.unsqueeze(-1), right=True)
        return drawn[:, 0], table.gather(-1, drawn)[:, 0], torch.isin(drawn[:, 0], self.request.stops)

    def _drop(self, stopped: NDArray[np.bool_], step: int) -> None:
        """Moves the running rows to the front, by exchanging as few as possible."""
        kept = len(stopped) - int(stopped.sum())
        holes = np.flatnonzero(stopped[:kept])
        movers = kept + np.flatnonzero(~stopped[kept:])
        self.running = kept
        if not len(holes):
            return
        width = int(self.lengths[self.response[np.concatenate([holes, movers])]].max()) + step
        self.cache.swap(torch.from_numpy(holes).to(self.device), torch.from_numpy(movers).to(self.device), width)
        self.response[holes], self.response[movers] = self.response[movers], self.response[holes]

    def _advance(self, step: int) -> None:
        responses = self.response[: self.running]
        positions = self.lengths[responses] + step
        tokens = torch.from_numpy(self.tokens[responses, step]).to(self.device).unsqueeze(1)
        columns = torch.from_numpy(positions).to(self.device).unsqueeze(1)
        width = int(positions.max()) + 1
        self.cache.place(columns, first=0, width=width, plain=False)
        self.states = forward(self.request.decoder, self.cache, tokens, columns, width)[:, 0]


def uniforms(keys: NDArray[np.uint64], samples: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
    """(rows, steps) numbers in [0, 1), a hash of (key, sample, step): splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        streams = _mix(_mix(keys) + (samples.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        bits = _mix(streams[:, None] + (np.arange(steps, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    # 52 bits, so that u * total stays below total after rounding.
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
