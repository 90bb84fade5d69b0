"""Draws responses token by token, from prompts whose keys and values are in a cache."""

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.models.attention import attention_mask
from ippo_trainer.models.cache import RaggedCache, Remembered
from ippo_trainer.models.parts import decoder, logits

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Args:
        samples: responses per prompt.
        max_new_tokens: a response without a stop token by then is cut off.
        temperature: > 0.
        stop_ids: a response ends with the first of these.
        pad_id: fills unused places; never seen.
        batch_tokens: bound on the rows times columns of keys and values held at once (at least one row is held);
            None takes what suits the model and its device.
        min_p: tokens less likely than this share of the likeliest one, before temperature, are never drawn; in [0, 1].

    Raises:
        ValueError: a number that is not positive, or a min-p that is no share.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    stop_ids: AbstractSet[int]
    pad_id: int
    batch_tokens: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1 or not self.temperature > 0:
            raise ValueError("samples, new tokens and temperature must be positive")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError("min-p must be between 0 and 1")

    def scale(self, logits: Tensor) -> Tensor:
        """(n, V) the sampler's own logits, of a model's logits (n, V), which may be overwritten."""
        if self.min_p > 0.0:
            least = logits.amax(-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill_(logits < least, -torch.inf)
        return logits.div_(self.temperature)


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
class SamplingRequest:
    """What one call of `sampling.sample` asks for; `stops` is a tensor of its stop tokens."""

    model: Any
    prompts: Sequence[list[int]]
    keys: NDArray[np.uint64]
    sampling: Sampling
    stops: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.stops.device


def forward(trunk: Any, cache: RaggedCache, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
    """Runs `tokens` (n, tokens) where the cache was told to place them; returns hidden states (n, tokens, D)."""
    columns = torch.arange(width, device=tokens.device)
    visible = columns <= positions.unsqueeze(-1)
    mask = attention_mask(trunk, visible, positions, columns.unsqueeze(0), width, cache.plain)
    output = trunk(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    states: Tensor = output.last_hidden_state
    return states


class Decode:
    """Draws one token after another for the rows of one batch; rows that are done leave it.

    Args:
        request: see there.
        owners: numbers of the prompts.
        cache: with `copies` rows of keys and values for each of them, in order.
        last: (prompts, D) the state after each prompt's last token.
    """

    @staticmethod
    def copies(sampling: Sampling) -> int:
        """Rows of the cache for each prompt."""
        return sampling.samples

    @staticmethod
    def capacity(longest: int, sampling: Sampling) -> int:
        """Columns of the cache for prompts of at most `longest` tokens."""
        return longest + sampling.max_new_tokens

    def __init__(self, request: SamplingRequest, owners: list[int], cache: RaggedCache, last: Tensor) -> None:
        sampling = request.sampling
        self.request, self.cache = request, cache
        self.owners = np.repeat(np.array(owners, np.int64), sampling.samples)  # the prompt of each response
        self.states = last.repeat_interleave(sampling.samples, 0)
        self.response = np.arange(len(self.owners))  # the response in each row of the cache
        self.running = len(self.owners)  # the first rows are the running ones
        self.lengths = np.array([len(request.prompts[number]) for number in self.owners.tolist()], np.int64)
        shape = (len(self.owners), sampling.max_new_tokens)
        self.tokens = np.full(shape, sampling.pad_id, np.int64)
        self.logprobs = np.zeros(shape, np.float32)
        self.sizes = np.zeros(len(self.owners), np.int64)
        self.ended = np.zeros(len(self.owners), bool)
        numbers = np.tile(np.arange(sampling.samples), len(owners))
        self.uniforms = torch.from_numpy(uniforms(request.keys[self.owners], numbers, shape[1])).to(request.device)

    def finish(self) -> None:
        """Decodes until every row has ended or is full."""
        for step in range(self.request.sampling.max_new_tokens):
            responses = self.response[: self.running]
            self._note(responses, step, self._draw(responses, step))
            self._drop(self.ended[responses], step)
            if step + 1 == self.request.sampling.max_new_tokens or not self.running:
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
            if response % self.request.sampling.samples == 0:
                owner = int(self.owners[response])
                # The last token was drawn but never run.
                ids = self.request.prompts[owner] + self.tokens[response, : self.sizes[response] - 1].tolist()
                yield owner, Remembered(ids, self.cache, row)

    def _draw(self, responses: NDArray[np.int64], step: int) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.request.sampling.scale(logits(self.request.model.get_output_embeddings(), self.states))
        table = scores.log_softmax(-1)
        # Sums in double: with a large vocabulary, fp32 sums would bias the rare tokens.
        heights = table.double().exp_().cumsum_(-1)
        levels = self.uniforms[torch.from_numpy(responses).to(self.request.device), step] * heights[:, -1]
        drawn = torch.searchsorted(heights, levels.unsqueeze(-1), right=True)
        return drawn[:, 0], table.gather(-1, drawn)[:, 0], torch.isin(drawn[:, 0], self.request.stops)

    def _note(self, responses: NDArray[np.int64], step: int, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
        """Writes down what `_draw` drew."""
        tokens, logprobs, stopped = (each.numpy(force=True) for each in drawn)
        self.tokens[responses, step] = tokens
        self.logprobs[responses, step] = logprobs
        self.sizes[responses] = step + 1
        self.ended[responses] = stopped

    def _drop(self, stopped: NDArray[np.bool_], step: int) -> None:
        """Moves the running rows to the front, by exchanging as few as possible."""
        self.running, holes, movers = exchange(stopped)
        if not len(holes):
            return
        width = int(self.lengths[self.response[np.concatenate([holes, movers])]].max()) + step
        device = self.request.device
        self.cache.swap(torch.from_numpy(holes).to(device), torch.from_numpy(movers).to(device), width)
        self.response[holes], self.response[movers] = self.response[movers], self.response[holes]

    def _advance(self, step: int) -> None:
        responses = self.response[: self.running]
        positions = self.lengths[responses] + step
        device = self.request.device
        tokens = torch.from_numpy(self.tokens[responses, step]).to(device).unsqueeze(1)
        columns = torch.from_numpy(positions).to(device).unsqueeze(1)
        width = int(positions.max()) + 1
        self.cache.place(columns, first=0, width=width, plain=False)
        self.states = forward(decoder(self.request.model), self.cache, tokens, columns, width)[:, 0]


def exchange(stopped: NDArray[np.bool_]) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """How many rows go on, and which rows that ended (holes) to exchange with which so that those come first."""
    count = len(stopped) - int(stopped.sum())
    return count, np.flatnonzero(stopped[:count]), count + np.flatnonzero(~stopped[count:])


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
