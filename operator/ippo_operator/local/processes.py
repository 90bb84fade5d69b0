"""Stage processes: started by a fork server, told to stop, waited for."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ippo_trainer.contract.stages import STAGES
from ippo_trainer.contract.variables import THREADS

from ippo_operator.local import child

TARGET = "ippo_trainer.stages.runtime:run_stage"
PRELOAD = (TARGET.partition(":")[0], *(f"ippo_trainer.stages.{stage.section}" for stage in STAGES))
_BLOCKED = {signal.SIGINT, signal.SIGTERM}


class Launcher:
    """Starts stage processes.

    Args:
        target: `module:function` that runs a stage and returns its exit code.
        preload: modules that the fork server imports once.
    """

    def __init__(self, target: str = TARGET, preload: Sequence[str] = PRELOAD) -> None:
        self._target = target
        self._context = multiprocessing.get_context("forkserver")
        self._preload = [f"{__package__}.fork_server", *preload]

    def start(self, spec: Path, shard: int | None, log: Path, termination: Path, work: Path) -> BaseProcess:
        """A process that runs one stage, or one shard of it."""
        self._context.set_forkserver_preload(self._preload)
        for name, value in THREADS.items():
            os.environ[name] = value
        # A signal for the terminal's foreground group must not end the fork server; it inherits the mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        process = self._context.Process(target=child.run, args=(self._target, spec, shard, log, termination, work))
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
