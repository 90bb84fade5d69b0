"""trl's rollouts: how many suggestions and forwards, of which states, and their prompts as the tokens that we have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.improve.states import LoggedState, LoggedStates


@dataclass(frozen=True, slots=True)
class Rollout:
    """The sizes of one rollout. trl counts suggestions, and gives every minibatch equally many."""

    samples: int
    """Suggestions of a state."""
    groups: int
    """States."""
    rows: int
    """Suggestions of one padded forward."""
    forwards: int
    """Of one optimiser step."""
    minibatches: int
    """Optimiser steps of a pass."""

    @property
    def suggestions(self) -> int:
        """In all."""
        return self.samples * self.groups

    @staticmethod
    def of(states: int, samples: int, minibatches: int, most_rows: int) -> "Rollout":
        """About so many states, as whole groups in every forward if they fit, else in equal parts of a group.

        Args:
            states: wanted, >= 1.
            samples: suggestions of each.
            minibatches: wanted; no more than there are states.
            most_rows: of a forward, >= 1.
        """
        minibatches = min(minibatches, states)
        groups = math.ceil(states / minibatches)
        if most_rows >= samples:
            forwards = math.ceil(groups / (most_rows // samples))
            together = math.ceil(groups / forwards)
            return Rollout(samples, together * forwards * minibatches, together * samples, forwards, minibatches)
        rows = max(part for part in range(1, most_rows + 1) if samples % part == 0)
        return Rollout(samples, groups * minibatches, rows, groups * samples // rows, minibatches)


class StateStream:
    """The states of logged conversations, one shuffle after another, by their place in the stream.

    trl's rollouts have a fixed number of prompts, so states are drawn one by one and not by conversation.
    """

    def __init__(self, states: LoggedStates, seed: int) -> None:
        self._states, self._seed = states, seed
        sizes = [states.size(number) for number in range(len(states))]
        self._conversations = np.repeat(np.arange(len(sizes)), sizes)
        self._turns = np.concatenate([np.arange(size) for size in sizes])

    def __len__(self) -> int:
        """States in one shuffle."""
        return len(self._conversations)

    def numbers(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) numbers of the states at the places from `start` on."""
        return np.fromiter(self._from(start, count), np.int64, count)

    def of(self, number: int) -> LoggedState:
        """The state of that number."""
        return self._states.of(int(self._conversations[number]))[int(self._turns[number])]

    def _from(self, start: int, count: int) -> Iterator[int]:
        place, end = start, start + count
        while place < end:
            shuffle, offset = divmod(place, len(self))
            order = np.random.Generator(np.random.Philox(derive_seed(self._seed, "states", shuffle)))
            part = order.permutation(len(self))[offset : offset + end - place]
            yield from part.tolist()
            place += len(part)


class StateTokens(PreTrainedTokenizerBase):  # type: ignore[misc]
    """What trl takes for a tokenizer: its texts are numbers of states, and their tokens are the prompts that we have.

    Nothing is rendered or tokenised a second time, so trl's prompts are ours to the last token. A token's text is its
    id.

    Args:
        stream: the states.
        stop_ids: of the policy; trl stops at these and at what the model's generation config names.
        pad_id: fills unused places.
    """

    def __init__(self, stream: StateStream, stop_ids: Sequence[int], pad_id: int) -> None:
        self.stream = stream
        super().__init__(pad_token=str(pad_id), eos_token=str(min(stop_ids)))

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return int(tokens) if isinstance(tokens, str) else [int(token) for token in tokens]

    def __call__(self, text: Sequence[str], **_: Any) -> Mapping[str, Any]:
        return {"input_ids": [self.stream.of(int(number)).prompt for number in text]}

    def batch_decode(self, sequences: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, ids)) for ids in sequences]
