"""A training of a small model on several processes of one machine: each has the whole model, gradients are summed.

Torch's threads divide one product of matrices, and those of a small model are over before the threads have met. So
the processes divide the batch instead. They are forks: what was loaded and rendered before is there without a copy.
They exchange bytes through pipes, and every sum is made in the order of the ranks, so all have the same bits.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from ippo_trainer.contract.errors import StageError, TryAgainError
from ippo_trainer.training.distributed import ALONE, O, Ranks, T

SMALL_BYTES = 32 << 20
"""Weights up to which threads gain nothing: the trunk of a step has to fit a core's caches."""
_PR_SET_PDEATHSIG = 1


class Replicas(Ranks):
    """The processes of `replicated`.

    Args:
        rank: this one's number.
        pipes: of the first process, to all others by rank; of another one, to the first.
    """

    def __init__(self, rank: int, size: int, pipes: Sequence[Connection]) -> None:
        self.rank, self.size, self._pipes = rank, size, list(pipes)

    def share(self, parts: Sequence[O]) -> list[tuple[O, bool]]:
        own = [(part, True) for part in parts if part.owner == self.rank]
        return own or [(parts[0], False)]  # whoever has none has figures to add up all the same

    def sum(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            bodies = self._exchange(_bytes(tensor))
            total = _tensor(bodies[0], tensor)
            for body in bodies[1:]:
                total += _tensor(body, tensor)
            tensor.copy_(total)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in trained])
        self.sum(flat)
        start = 0
        for parameter in trained:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def sums(self, figures: dict[str, float]) -> dict[str, float]:
        return {name: sum(each[name] for each in self.gathered(figures)) for name in figures} if figures else {}

    def maximum(self, value: float) -> float:
        return float(torch.tensor(self.gathered(value), dtype=torch.float64).max())  # a NaN is one

    def any(self, flag: bool) -> bool:
        return any(self.gathered(flag))

    def agreed(self, value: T) -> T:
        result: T = json.loads(self._exchange(json.dumps(value).encode() if self.first else b"")[0])
        return result

    def gathered(self, value: T) -> list[T]:
        return [json.loads(body) for body in self._exchange(json.dumps(value).encode())]

    def spread(self, tensor: Tensor | None, like: Tensor | None = None) -> Tensor:
        shape = self.agreed([] if tensor is None else list(tensor.shape))
        kind = self.agreed("" if tensor is None else str(tensor.dtype).removeprefix("torch."))
        body = self._exchange(b"" if tensor is None else _bytes(tensor))[0]
        return _tensor(body, torch.empty(shape, dtype=getattr(torch, kind)))

    def _exchange(self, body: bytes) -> list[bytes]:
        """All processes' bytes, by rank; all call it together. TryAgainError where one of them was lost."""
        try:
            if not self.first:
                self._pipes[0].send_bytes(body)
                return [self._pipes[0].recv_bytes() for _ in range(self.size)]
            bodies = [body, *(pipe.recv_bytes() for pipe in self._pipes)]
            for pipe in self._pipes:
                for each in bodies:
                    pipe.send_bytes(each)
        except (EOFError, OSError) as error:
            raise TryAgainError(
                f"another process of this stage was lost ({type(error).__name__})",
                "It may have run out of memory: raise resources of spec.pods, or set threads to 1. The next attempt "
                "goes on from the checkpoint.",
            ) from error
        return bodies


def processes_for(model: Any, threads: int) -> int:
    """How many processes train a model that has so many threads: one where the threads themselves are of use, and
    where a fork is not safe (macOS: its libraries do not survive one)."""
    parameters = list(model.parameters())
    small = sum(each.numel() * each.element_size() for each in parameters) <= SMALL_BYTES
    return threads if small and parameters[0].device.type == "cpu" and sys.platform == "linux" else 1


@contextmanager
def replicated(processes: int) -> Iterator[Ranks]:
    """Runs what is inside by several processes, each with one thread; the first of them alone goes on behind it.

    All of them must do the same up to what `Ranks` divides.

    Raises:
        TryAgainError: another process was lost.
    """
    if processes == 1:
        yield ALONE
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rank, pipes, children = _fork_all(processes)
    try:
        yield Replicas(rank, processes, pipes)
    except Exception as error:
        if rank and not isinstance(error, StageError):
            traceback.print_exception(error)
        for child in children:
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        if rank:
            os._exit(0)
        for pipe in pipes:
            pipe.close()
        for child in children:
            os.waitpid(child, 0)
        torch.set_num_threads(threads)


def _fork_all(processes: int) -> tuple[int, list[Connection], list[int]]:
    """In each process: its rank, its pipes, and the others' numbers, where it is the first."""
    pipes: list[Connection] = []
    children: list[int] = []
    for rank in range(1, processes):
        own, other = Pipe()
        child = _fork()
        if child == 0:
            for pipe in (*pipes, own):  # or the loss of the first process would not be seen
                pipe.close()
            return rank, [other], []
        other.close()
        pipes.append(own)
        children.append(child)
    return 0, pipes, children


def _fork() -> int:
    parent = os.getpid()
    with warnings.catch_warnings():
        # Of a fork with threads. Torch's wait for work, and the child starts none: it computes with one.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        logging.disable()  # one voice is enough
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(0)
        torch.set_num_threads(1)
    return child


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(body: bytes, like: Tensor) -> Tensor:
    table = torch.frombuffer(bytearray(body), dtype=torch.uint8) if body else torch.zeros(0, dtype=torch.uint8)
    return table.view(like.dtype).view(like.shape)
