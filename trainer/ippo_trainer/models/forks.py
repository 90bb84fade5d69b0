"""Draws many responses to a prompt from one copy of its keys and values.

A decoding step that has a row for each response reads the prompt's keys and values once for each of them, and waits for
memory. Here the responses are branches of their prompt's row: one product of all their queries with all keys, in which
a branch sees the prompt and its own tokens. It is the forward of `packing`, one step of all branches at a time; see
Hydragen (arXiv 2402.05099) for what a shared prefix saves.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ippo_trainer.models.attention import attention_mask
from ippo_trainer.models.cache import RaggedCache, Remembered
from ippo_trainer.models.decoding import Decode, Sampling, SamplingRequest, exchange
from ippo_trainer.models.parts import decoder

_PROMPT, _NOBODY = -1, -2
"""Whose a column is, if no branch's."""
_WIDEST = 16
"""Columns of all branches, in lengths of the prompt, up to which one product is faster than a row for each."""


class ForkDecode(Decode):
    """Draws what `Decode` draws, up to rounding. A prompt's row leaves the batch when all its branches have ended."""

    @staticmethod
    def copies(sampling: Sampling) -> int:
        return 1

    @staticmethod
    def capacity(longest: int, sampling: Sampling) -> int:
        return longest + sampling.samples * sampling.max_new_tokens

    @staticmethod
    def pays(length: int, sampling: Sampling) -> bool:
        """Whether a prompt of `length` tokens is long enough."""
        return sampling.samples > 1 and sampling.samples * sampling.max_new_tokens <= _WIDEST * length

    def __init__(self, request: SamplingRequest, owners: list[int], cache: RaggedCache, last: Tensor) -> None:
        super().__init__(request, owners, cache, last)
        samples, capacity = request.sampling.samples, cache.layers[0].capacity
        self.running = len(owners)
        self._prompts = np.arange(len(owners))
        """(rows,) number of the prompt in each row of the cache."""
        self._alive = np.ones((len(owners), samples), bool)
        """(prompts, samples) whether a branch goes on."""
        self._starts = self.lengths[::samples].copy()
        self._ends = self._starts.copy()
        """(prompts,) the next column that is free."""
        columns = np.arange(capacity)
        self._branch = np.where(columns < self._starts[:, None], _PROMPT, _NOBODY)
        """(prompts, columns) whose each is."""
        self._positions = np.where(columns < self._starts[:, None], columns, 0)
        """(prompts, columns) of each in its text."""

    def finish(self) -> None:
        samples, steps = self.request.sampling.samples, self.request.sampling.max_new_tokens
        for step in range(steps):
            responses = np.flatnonzero(self._alive)
            self._note(responses, step, self._draw(responses, step))
            self._alive[responses // samples, responses % samples] = ~self.ended[responses]
            self._leave()
            if step + 1 == steps or not self.running:
                break
            self._fork(step)

    def remembered(self) -> Iterator[tuple[int, Remembered]]:
        """(prompt, where its keys and values are): those of a response lie scattered."""
        owners = self.owners[:: self.request.sampling.samples].tolist()
        for row, number in enumerate(self._prompts.tolist()):
            yield owners[number], Remembered(list(self.request.prompts[owners[number]]), self.cache, row)

    def _leave(self) -> None:
        """Moves the rows with a branch that goes on to the front."""
        self.running, holes, movers = exchange(np.asarray(~self._alive[self._prompts[: self.running]].any(1)))
        if len(holes):
            device = self.request.device
            width = int(self._ends[self._prompts[np.concatenate([holes, movers])]].max())
            self.cache.swap(torch.from_numpy(holes).to(device), torch.from_numpy(movers).to(device), width)
            self._prompts[holes], self._prompts[movers] = self._prompts[movers], self._prompts[holes]

    def _fork(self, step: int) -> None:
        """Runs the newest token of every branch that goes on."""
        prompts = self._prompts[: self.running]
        alive = self._alive[prompts]
        counts = alive.sum(1)
        wide = int(counts.max())
        # Branches that go on come first, in order; what stands in for the others writes where the next step does.
        branches = np.argsort(~alive, axis=1, kind="stable")[:, :wide]
        valid = np.arange(wide) < counts[:, None]
        columns = self._ends[prompts][:, None] + np.arange(wide)
        positions = np.broadcast_to((self._starts[prompts] + step)[:, None], columns.shape)
        rows = np.broadcast_to(prompts[:, None], columns.shape)
        self._branch[rows[valid], columns[valid]] = branches[valid]
        self._positions[rows[valid], columns[valid]] = positions[valid]
        self._ends[prompts] += counts
        responses = rows * self.request.sampling.samples + branches
        tokens = np.where(valid, self.tokens[responses, step], self.request.sampling.pad_id)
        states = self._forward(tokens, positions, (prompts, branches, columns))
        order = np.argsort(responses[valid], kind="stable")
        self.states = states[torch.from_numpy(valid).to(states.device)][torch.from_numpy(order).to(states.device)]

    def _forward(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], places: tuple[NDArray[np.int64], ...]
    ) -> Tensor:
        """Hidden states (rows, branches, D)."""
        prompts, branches, columns = places
        device, trunk = self.request.device, decoder(self.request.model)
        width = int(columns.max()) + 1
        owners = torch.from_numpy(self._branch[prompts, :width]).to(device).unsqueeze(1)
        visible = (owners == _PROMPT) | (owners == torch.from_numpy(branches).to(device).unsqueeze(2))
        queries, keys, targets = (
            torch.from_numpy(table.copy()).to(device)
            for table in (positions, self._positions[prompts, :width], columns)
        )
        mask: Any = attention_mask(trunk, visible, queries, keys, int(positions.max()) + 1)
        self.cache.place(targets, first=0, width=width, plain=False)
        output = trunk(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=queries,
            past_key_values=self.cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state
        return states
