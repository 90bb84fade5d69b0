"""A stage on several processes (ranks), each with a part of the forwards and of the parameters (FSDP2).

Every rank has the same tables of the whole batch, so statistics, the KL weight, guards and early stops need no sums of
their own. What is divided is what costs: sampling, forwards and backwards. `Ranks` is a process alone: there nothing is
divided, and nothing here changes a number. `replicas` has the processes of a small model.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from types import MethodType
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.models.adapters import of_base

TIMEOUT = timedelta(hours=1)
"""Of a wait for the others: the first process publishes and saves alone. One that died is noticed at once."""
LINGER_SECONDS = 3.0
"""A process whose peer was lost ends this much later. Kubernetes counts ends in seconds, and the first one counts."""
T = TypeVar("T")


class Owned(Protocol):
    """Work that belongs to one process."""

    @property
    def owner(self) -> int:
        """Its rank."""
        ...


O = TypeVar("O", bound=Owned)  # noqa: E741 - as T, for what is owned


class Ranks:
    """The processes of a stage; here, one alone."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and artifacts."""
        return self.rank == 0

    def share(self, parts: Sequence[O]) -> list[tuple[O, bool]]:
        """What to run here, and whether it counts.

        Sharded forwards are joint ones, so each process runs equally many: one that has fewer repeats some in vain.
        """
        return [(part, True) for part in parts]

    def sum(self, *tensors: Tensor) -> None:
        """Replaces each by its sum over the processes, the same everywhere."""

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums the gradients over the processes, where each has its own of all parameters."""

    def sums(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures summed over the processes."""
        return figures

    def maximum(self, value: float) -> float:
        """The largest of the processes' values."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def agreed(self, value: T) -> T:
        """The first process's value, which must be JSON. Keeps processes together where rounding could part them."""
        return value

    def gathered(self, value: T) -> list[T]:
        """All processes' values (JSON), by rank."""
        return [value]

    def shard(self, module: nn.Module) -> None:
        """Divides the parameters over the processes, but not a shared base, which each has whole; once, however often
        it is called. From then on only `call` and `with_whole` may run it."""

    def call(self, function: Callable[..., T], module: Any, *arguments: Any) -> T:
        """`function(module, *arguments)`, with a module that may be sharded; all processes call it together."""
        return function(module, *arguments)

    def with_whole(self, function: Callable[..., T], module: Any, *arguments: Any) -> T:
        """The same with all the parameters here, so that the processes may run it differently often inside."""
        return function(module, *arguments)

    def spread(self, tensor: Tensor | None, like: Tensor | None = None) -> Tensor:
        """The first process's whole tensor, for every process, laid out as `like`."""
        if tensor is None:
            raise ValueError("the first process gives the tensor")
        return tensor if like is None else tensor.to(like.device)


ALONE = Ranks()


class ManyRanks(Ranks):
    """The processes of the default group of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._mesh = init_device_mesh(device.type, (self.size,))

    def share(self, parts: Sequence[O]) -> list[tuple[O, bool]]:
        by_rank = [[part for part in parts if part.owner == rank] for rank in range(self.size)]
        own, rounds = by_rank[self.rank], max(map(len, by_rank))
        idle = own[0] if own else parts[0]
        return [(idle if part is None else part, part is not None) for part, _ in zip_longest(own, range(rounds))]

    def sum(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)

    def sums(self, figures: dict[str, float]) -> dict[str, float]:
        table = torch.tensor(list(figures.values()), dtype=torch.float64)
        dist.all_reduce(table)
        return dict(zip(figures, table.tolist(), strict=True))

    def maximum(self, value: float) -> float:
        # Not an all-reduce: its maximum may drop a NaN, and a NaN has to end the updates.
        return float(torch.tensor(self.gathered(value), dtype=torch.float64).max())

    def any(self, flag: bool) -> bool:
        table = torch.tensor([int(flag)])
        dist.all_reduce(table)
        return bool(table.item())

    def agreed(self, value: T) -> T:
        body = json.dumps(value).encode() if self.first else b""
        size = torch.tensor([len(body)])
        dist.broadcast(size, 0)
        table = _bytes(body, int(size))
        dist.broadcast(table, 0)
        result: T = json.loads(table.numpy().tobytes())
        return result

    def gathered(self, value: T) -> list[T]:
        body = json.dumps(value).encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(body)]))
        longest = max(map(int, sizes))
        tables = [_bytes(b"", longest) for _ in range(self.size)]
        dist.all_gather(tables, _bytes(body, longest))
        return [json.loads(table.numpy().tobytes()[: int(size)]) for table, size in zip(tables, sizes, strict=True)]

    def shard(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        if isinstance(module, FSDPModule):
            return
        frozen = {parameter for parameter in module.parameters() if of_base(parameter)}
        for part in [*_layers(module), module]:
            fully_shard(part, mesh=self._mesh, reshard_after_forward=True, ignored_params=frozen or None)
            assert isinstance(part, FSDPModule)
            # Losses are divided by the tokens of the whole minibatch already.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        module.run_function = MethodType(_run_function, module)  # type: ignore[assignment]
        register_fsdp_forward_method(module, "run_function")

    def call(self, function: Callable[..., T], module: Any, *arguments: Any) -> T:
        result: T = module.run_function(function, *arguments)
        return result

    def with_whole(self, function: Callable[..., T], module: Any, *arguments: Any) -> T:
        from torch.distributed.fsdp import FSDPModule

        parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
        with torch.no_grad():
            module.run_function(_nothing)  # its first run sets the hooks up
            module.set_reshard_after_forward(False)
            for part in parts:
                part.unshard()
            result = function(module, *arguments)
            module.set_reshard_after_forward(True)
            for part in parts:
                part.reshard()
        return result

    def spread(self, tensor: Tensor | None, like: Tensor | None = None) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(like, DTensor):
            whole = torch.empty(like.shape, dtype=like.dtype) if tensor is None else tensor
            return distribute_tensor(whole.to(self.device), like.device_mesh, like.placements, src_data_rank=0)
        shape = self.agreed([] if tensor is None else list(tensor.shape))
        kind = self.agreed("" if tensor is None else str(tensor.dtype).removeprefix("torch."))
        whole = (torch.zeros(shape, dtype=getattr(torch, kind)) if tensor is None else tensor).to(self.device)
        dist.broadcast(whole, 0)
        return whole


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; all processes call it together."""
    full = getattr(tensor, "full_tensor", None)
    result: Tensor = tensor if full is None else full()
    return result


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded; shares its memory."""
    part = getattr(tensor, "to_local", None)
    result: Tensor = tensor if part is None else part()
    return result


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started with this one; alone where it did not.

    Raises:
        TryAgainError: another process is not there, or was lost.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Small things go through the CPU, and there the loss of a process is seen at once.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield ManyRanks(device)
        dist.barrier()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        time.sleep(LINGER_SECONDS)
        raise TryAgainError(
            f"another process of this stage was lost or never came ({str(error).splitlines()[0][:200]})",
            "See the log of the pod that ended first; the next attempt goes on from the checkpoint.",
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the trunk: those of the largest list of modules."""
    lists = [each for each in module.modules() if isinstance(each, nn.ModuleList)]
    return list(max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=[]))


def _run_function(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(module, *arguments)


def _nothing(_: nn.Module) -> None:
    return None


def _bytes(body: bytes, size: int) -> Tensor:
    table = torch.zeros(size, dtype=torch.uint8)
    table[: len(body)] = torch.frombuffer(bytearray(body), dtype=torch.uint8) if body else table[:0]
    return table
