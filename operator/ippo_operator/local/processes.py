"""Processes of stages and of servers: started by a fork server, told to stop, waited for."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ippo_trainer.contract.stages import STAGES
from ippo_trainer.contract.variables import THREADS

from ippo_operator.local import child
from ippo_operator.local.child import Program

TARGET = "ippo_trainer.stages.ending:run_stage"
PRELOAD = ("ippo_trainer.stages.runtime", *(f"ippo_trainer.stages.{stage.section}" for stage in STAGES))
_BLOCKED = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True)
class Programs:
    """`module:function` of the programs that serve live customers."""

    fetch: str = "ippo_trainer.store.fetch:main"
    serve: str = "ippo_trainer.serve.cli:main"
    gateway: str = "ippo_trainer.gateway.cli:main"


class Launcher:
    """Starts processes.

    Args:
        target: `module:function` that runs a stage and returns its exit code.
        preload: modules that the fork server imports once.
        programs: for live customers; Programs() if left out.
    """

    def __init__(
        self, target: str = TARGET, preload: Sequence[str] = PRELOAD, programs: Programs | None = None
    ) -> None:
        self.programs = programs or Programs()
        self._target = target
        self._context = multiprocessing.get_context("forkserver")
        self._preload = [f"{__package__}.fork_server", *preload]

    def start(self, spec: Path, shard: int | None, log: Path, termination: Path, work: Path) -> BaseProcess:
        """A process that runs one stage, or one shard of it."""
        return self._start(child.run, (self._target, spec, shard, log, termination, work))

    def start_program(self, program: Program) -> BaseProcess:
        """A process that runs until it is told to end."""
        return self._start(child.run_program, (program,))

    def _start(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
        self._context.set_forkserver_preload(self._preload)
        for name, value in THREADS.items():
            os.environ[name] = value
        # A signal for the terminal's foreground group must not end the fork server; it inherits the mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        process = self._context.Process(target=target, args=arguments)
        try:
            process.start()
        except EOFError:  # nobody at the other end of its pipe
            text = "the process that loads the stages ended before it was ready; is there enough memory?"
            raise ChildProcessError(errno.ECHILD, text) from None
        return process


def exit_code(process: BaseProcess) -> int:
    """As a shell has it: 128 + N for a process that signal N ended."""
    code = process.exitcode
    if code is None:
        raise ValueError("the process still runs")
    return code if code >= 0 else 128 - code


def wait_for_any(processes: Sequence[BaseProcess], also: Sequence[Connection | int], timeout: float | None) -> None:
    """Returns when one of the processes ended, one of the others can be read, or the time is over."""
    wait([*(process.sentinel for process in processes), *also], timeout)
