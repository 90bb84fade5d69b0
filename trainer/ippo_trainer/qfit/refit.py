"""From a trained Q model and its conversations to a last layer by least squares."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.last_layer import READINGS, LastLayer, attach, suggestion_features
from ippo_trainer.models.packing import Group, hidden_states, pack_batches
from ippo_trainer.models.parts import decoder
from ippo_trainer.qfit.examples import Example, pack_turns, turn_offsets
from ippo_trainer.qfit.least_squares import LeastSquaresSettings, LoggedTurns, fit
from ippo_trainer.qfit.targets import emphasis, turn_weights
from ippo_trainer.training.distributed import ALONE, Ranks


class Examples(Protocol):
    """Rendered conversations: a list, or what renders those that it is asked for."""

    def __getitem__(self, part: slice, /) -> Sequence[Example]: ...


@dataclass(frozen=True, slots=True)
class Log:
    """Conversations of one iteration, none of them censored, that the last layer is fitted to."""

    conversations: Sequence[Conversation]
    examples: Examples
    """In the same order."""
    censoring: Censoring
    """Of the log that they are from."""
    own: Callable[[Turn], bool] = lambda turn: not explored(turn)
    """Whether a turn is of the policy whose V is asked for. What follows any turn serves Q, whoever suggested it."""


def refit(
    model: Any, logs: Sequence[Log], features: tuple[Tensor, Tensor], settings: LeastSquaresSettings, folds: int
) -> LastLayer:
    """Fits the last layer to the features of the model's trunk, and has the model read through it.

    Args:
        model: the Q model.
        logs: what is fitted to, at least one.
        features: theirs, by `fill_features`.
        settings: of the least squares.
        folds: conversations go round so many; each member leaves one out. With 1, members leave nothing out.

    Raises:
        BadDataError: see `least_squares.fit`.
    """
    rows = [
        row for log in logs for number, each in enumerate(log.conversations) for row in _rows(log, each, number % folds)
    ]
    last, outcome, weight, value_weight, fold = torch.tensor(rows, dtype=torch.double).T
    scale = weight.mean().clamp_min(1e-12)
    turns = LoggedTurns(*features, last > 0, outcome, weight / scale, value_weight / scale, fold.long())
    layer = fit(turns, settings)
    attach(model, layer)
    return layer


def empty_features(width: int, logs: Sequence[Log]) -> tuple[Tensor, Tensor]:
    """(n, D) and (n, 2 D) zeros for the n turns of some logs, in memory that is shared with processes which are forked
    from now on."""
    turns = sum(len(each.turns) for log in logs for each in log.conversations)
    states, actions = (_shared(turns, readings * width) for readings in (1, READINGS))
    return states, actions


def _shared(rows: int, columns: int) -> Tensor:
    if not rows:
        return torch.zeros(0, columns)
    memory = mmap.mmap(-1, rows * columns * torch.float32.itemsize)  # not of /dev/shm, which is small in a pod
    return torch.frombuffer(memory, dtype=torch.float32).view(rows, columns)


def fill_features(
    model: Any, logs: Sequence[Log], features: tuple[Tensor, Tensor], max_tokens: int, ranks: Ranks = ALONE
) -> Iterator[None]:
    """Writes `turn_features` of all turns of some logs, in a row; each process renders and reads every n-th
    conversation. The model's own last layer, if it has one, is taken off.

    Args:
        model: the Q model.
        logs: see there.
        features: by `empty_features`, before the processes parted.
        max_tokens: of one forward.
        ranks: the processes.

    Yields:
        After each log, when all processes have read it.

    Raises:
        BadDataError: a process could not render a conversation; in all of them.
    """
    attach(model, None)
    start = 0
    for log in logs:
        counts = np.array([len(each.turns) for each in log.conversations], np.int64)
        mine = np.repeat(np.arange(len(counts)) % ranks.size == ranks.rank, counts)
        rows = start + torch.from_numpy(np.flatnonzero(mine))
        _together(ranks, partial(_write_features, model, log, (rows, features), max_tokens, ranks))
        start += len(mine)
        yield


def _write_features(
    model: Any, log: Log, place: tuple[Tensor, tuple[Tensor, Tensor]], max_tokens: int, ranks: Ranks
) -> None:
    rows, (states, actions) = place
    states[rows], actions[rows] = turn_features(model, log.examples[ranks.rank :: ranks.size], max_tokens)


def _together(ranks: Ranks, work: Callable[[], None]) -> None:
    """Does it in every process; where one meets bad data, all end with its words, and none waits for it in vain."""
    fault: list[str] = []
    """Message and remedy, if there is one."""
    try:
        work()
    except BadDataError as error:
        fault = [error.message, error.remedy]
    first = next((each for each in ranks.gathered(fault) if each), None)
    if first is not None:
        raise BadDataError(*first)


def turn_features(model: Any, examples: Sequence[Example], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Features of every turn, on the CPU: (n, D) of its state, the trunk's at the prompt's last token, and (n, 2 D) of
    its suggestion, `suggestion_features`."""
    offsets, width = turn_offsets(examples), model.config.hidden_size
    states, actions = (torch.zeros(int(offsets[-1]), readings * width) for readings in (1, READINGS))
    device = next(model.parameters()).device
    with torch.no_grad():
        for part in pack_turns(examples, range(len(examples)), offsets, max_tokens):
            packed = part.packed.to(device)
            hidden = hidden_states(decoder(model), packed)
            states[part.turns] = hidden[packed.prompt_index].float().cpu()
            actions[part.turns] = suggestion_features(hidden, packed).cpu()
    return states, actions


def response_features(model: Any, groups: Sequence[Group], max_tokens: int) -> Tensor:
    """(N, 2 D) `suggestion_features` of every response of every group, in order, on the CPU."""
    starts = np.concatenate([[0], np.cumsum([len(group.responses) for group in groups])])
    features = torch.zeros(int(starts[-1]), READINGS * model.config.hidden_size)
    device = next(model.parameters()).device
    with torch.no_grad():
        for numbers, packed in pack_batches(groups, max_tokens):
            rows = np.concatenate([np.arange(starts[number], starts[number + 1]) for number in numbers])
            there = packed.to(device)
            features[torch.from_numpy(rows)] = suggestion_features(hidden_states(decoder(model), there), there).cpu()
    return features


def _rows(log: Log, conversation: Conversation, fold: int) -> list[tuple[float, ...]]:
    """By turn: whether it is the last one, its reward, its weight for Q and for V, its fold."""
    turns, end = conversation.turns, len(conversation.turns) - 1
    factors, rows = emphasis(conversation), list[tuple[float, ...]]()
    for index, (weight, value_weight) in enumerate(turn_weights(conversation, log.censoring)):
        reward = float(conversation.outcome) if index == end else 0.0
        own = factors[index] * value_weight if log.own(turns[index]) else 0.0
        rows.append((float(index == end), reward, factors[index] * weight, own, float(fold)))
    return rows
