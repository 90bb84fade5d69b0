"""Continuous batching: sequences join and leave between two tokens, each in a row of one key-value cache.

The arithmetic of a draw is `models.decoding`'s, so equal keys give the text that the stages would have sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.models import decoding
from ippo_trainer.models.cache import RaggedCache
from ippo_trainer.models.parts import decoder
from ippo_trainer.serve.engine import ResponseSampling


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token of one sequence, and whether the sequence ends with it."""

    owner: object
    sample: int
    token: int
    ended: bool
    logprob: float
    """Natural log-probability with which it was drawn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt whose responses join the running sequences."""

    owner: object
    prompt: Sequence[int]
    sampling: ResponseSampling


@dataclass(slots=True)
class _Sequence:
    owner: object
    sample: int
    sampling: ResponseSampling
    uniforms: NDArray[np.float64]
    length: int
    """Tokens in the cache."""
    count: int = 0
    """Tokens sampled so far."""


class Slots:
    """The running sequences of a model.

    Args:
        model: a causal LM that `models.load.verify` accepts.
        rows: sequences at once.
        capacity: tokens of a prompt and its response.
        stop_ids: a sequence ends with the first of these.
        pad_id: fills unused places, which no query attends to.
    """

    def __init__(self, model: Any, rows: int, capacity: int, stop_ids: frozenset[int], pad_id: int) -> None:
        self.model, self.stop_ids, self.pad_id = model, stop_ids, pad_id
        self.device = next(model.parameters()).device
        self._free_rows = rows
        # One column more: the last token of a full sequence is drawn but never run.
        self._cache = RaggedCache(model.config.num_hidden_layers, rows, capacity + 1)
        self._rows: list[_Sequence] = []
        self._states: Tensor | None = None

    @property
    def free(self) -> int:
        """Sequences that may still join."""
        return self._free_rows - len(self._rows)

    @property
    def running(self) -> int:
        """Sequences that are not over."""
        return len(self._rows)

    def join(self, entries: Sequence[Entry]) -> None:
        """Reads prompts. Their samples run from the next `step` on; there must be room."""
        first, count = len(self._rows), len(entries)
        states = self._read([list(entry.prompt) for entry in entries], first)
        self._rows += [_row(entry, 0) for entry in entries]
        sources = [number for number, entry in enumerate(entries) for _ in range(entry.sampling.samples - 1)]
        if sources:
            targets = torch.arange(first + count, first + count + len(sources), device=self.device)
            width = max(len(entry.prompt) for entry in entries)
            self._cache.copy_from(self._cache, targets, torch.tensor(sources, device=self.device).add_(first), width)
            states = torch.cat([states, states[sources]])
            for entry in entries:
                self._rows += [_row(entry, sample) for sample in range(1, entry.sampling.samples)]
        self._states = states if self._states is None or not first else torch.cat([self._states, states])

    def step(self) -> list[SampledToken]:
        """Draws the next token of every sequence; those that end leave."""
        assert self._states is not None
        tokens, logprobs = self._draw(self._states)
        samples = []
        for row, token, logprob in zip(self._rows, tokens, logprobs, strict=True):
            row.count += 1
            ended = token in self.stop_ids or row.count == row.sampling.max_new_tokens
            samples.append(SampledToken(row.owner, row.sample, token, ended, logprob))
        self._keep([not each.ended for each in samples], tokens)
        return samples

    def drop(self, owner: object) -> None:
        """Gives up an owner's sequences. Call it between steps."""
        stays = [row.owner is not owner for row in self._rows]
        if not all(stays):
            self._move(stays)

    def _read(self, prompts: list[list[int]], first: int) -> Tensor:
        """Runs prompts in the rows from `first` on; returns the state after each one's last token (n, D)."""
        size = max(map(len, prompts))
        ids = np.full((len(prompts), size), self.pad_id, np.int64)
        for number, prompt in enumerate(prompts):
            ids[number, : len(prompt)] = prompt
        positions = torch.arange(size, device=self.device).expand(len(prompts), size)
        self._cache.place(positions, first=first, width=size, plain=True)
        states = decoding.forward(
            decoder(self.model), self._cache, torch.from_numpy(ids).to(self.device), positions, size
        )
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return states[torch.arange(len(prompts), device=self.device), ends]

    def _draw(self, states: Tensor) -> tuple[list[int], list[float]]:
        """A token for each state, and the log-probability that it had among those that could be drawn."""
        logits = self.model.get_output_embeddings()(states).float()
        greedy = logits.argmax(-1)
        logits = self._likely(logits)
        temperatures = torch.tensor([row.sampling.temperature or 1.0 for row in self._rows], device=self.device)
        table = (logits / temperatures.unsqueeze(-1)).log_softmax(-1)
        weights = self._nucleus(table.double().exp_())
        heights = weights.cumsum(-1)
        uniforms = [row.uniforms[row.count] for row in self._rows]
        levels = torch.tensor(uniforms, device=self.device, dtype=torch.double) * heights[:, -1]
        sampled = torch.searchsorted(heights, levels.unsqueeze(-1), right=True)[:, 0]
        sampled.clamp_(max=heights.shape[-1] - 1)  # beyond it are levels that are no number
        cold = torch.tensor([row.sampling.temperature == 0 for row in self._rows], device=self.device)
        tokens = torch.where(cold, greedy, sampled)
        logprobs = (weights.gather(-1, sampled.unsqueeze(-1))[:, 0] / heights[:, -1]).log()
        return tokens.tolist(), torch.where(cold, 0.0, logprobs).tolist()

    def _likely(self, logits: Tensor) -> Tensor:
        """The logits (n, V) without what is below each row's min_p, as `models.decoding.Sampling` has it."""
        if all(row.sampling.min_p <= 0 for row in self._rows):
            return logits
        shares = torch.tensor([row.sampling.min_p for row in self._rows], device=self.device, dtype=torch.double)
        least = logits.amax(-1, keepdim=True) + shares.log().float().unsqueeze(-1)
        return logits.masked_fill(logits < least, -torch.inf)

    def _nucleus(self, weights: Tensor) -> Tensor:
        """Zeroes what is beyond each row's top_p: the fewest likeliest tokens that reach it stay."""
        limits = [row.sampling.top_p for row in self._rows]
        if all(limit >= 1 for limit in limits):
            return weights
        ordered, order = weights.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        stays = before < torch.tensor(limits, device=self.device, dtype=torch.double).unsqueeze(-1)
        stays |= torch.tensor([limit >= 1 for limit in limits], device=self.device).unsqueeze(-1)
        return weights * torch.zeros_like(stays).scatter_(-1, order, stays)

    def _keep(self, stays: list[bool], tokens: list[int]) -> None:
        """Runs the drawn tokens of the sequences that go on."""
        tokens = [tokens[number] for number in self._move(stays)]
        if not self._rows:
            self._states = None
            return
        lengths = [row.length for row in self._rows]
        for row in self._rows:
            row.length += 1
        columns = torch.tensor(lengths, device=self.device).unsqueeze(1)
        width = max(lengths) + 1
        self._cache.place(columns, first=0, width=width, plain=False)
        ids = torch.tensor(tokens, device=self.device).unsqueeze(1)
        self._states = decoding.forward(decoder(self.model), self._cache, ids, columns, width)[:, 0]

    def _move(self, stays: list[bool]) -> list[int]:
        """Moves the rows that stay to the front, by exchanging as few as possible; returns where each came from."""
        order = list(range(len(stays)))
        count = sum(stays)
        holes = [number for number in range(count) if not stays[number]]
        movers = [number for number in range(count, len(stays)) if stays[number]]
        if holes:
            width = max(self._rows[number].length for number in holes + movers)
            some, others = (torch.tensor(numbers, device=self.device) for numbers in (holes, movers))
            self._cache.swap(some, others, width)
            for hole, mover in zip(holes, movers, strict=True):
                order[hole] = mover
        order = order[:count]
        self._rows = [self._rows[number] for number in order]
        if self._states is not None:
            self._states = self._states[order] if order else None
        return order


def _row(entry: Entry, sample: int) -> _Sequence:
    sampling = entry.sampling
    keys, numbers = np.array([sampling.seed], np.uint64), np.array([sample], np.int64)
    uniforms = decoding.uniforms(keys, numbers, sampling.max_new_tokens)[0]
    return _Sequence(entry.owner, sample, sampling, uniforms, len(entry.prompt))
