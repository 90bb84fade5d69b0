"""The end of a stage's process, in bounded time.

When a stage is over, what it published stands, and its checkpoint is gone or saved. But Python waits for threads that
are no daemons, for child processes and for exit handlers, and a simulator may have left such behind.
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.logs.stderr import logging_to_stderr

GRACE_SECONDS = 10.0
"""For the threads, processes and exit handlers that are left when a stage is over."""
_log = logging.getLogger(__name__)


def bounded(code: int) -> int:
    """Returns the exit code. If the process has not ended some seconds later, it is ended with that code.

    Call it last, in a process that nothing else runs in.
    """
    threading.Thread(target=_end, args=(code,), name="the end of the stage", daemon=True).start()
    return code


def run_stage(spec_path: Path, shard_index: int | None, termination_log: Path, work_dir: Path) -> int:
    """As `runtime.run_stage`, in a process of its own."""
    from ippo_trainer.stages import runtime

    return bounded(runtime.run_stage(spec_path, shard_index, termination_log, work_dir))


def _end(code: int) -> None:
    time.sleep(GRACE_SECONDS)
    with logging_to_stderr(Redactor()):
        _log.warning(
            "the stage is over (exit code %d), and its process has not ended %g s later, because of %s: it is killed. "
            "See that the simulator ends what it starts, or starts threads and processes as daemons",
            code,
            GRACE_SECONDS,
            _left_behind(),
        )
    for process in multiprocessing.active_children():
        process.kill()
    sys.stdout.flush()
    os._exit(code)


def _left_behind() -> str:
    """What Python waits for, in words."""
    threads = [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    processes = [each for each in multiprocessing.active_children() if not each.daemon]
    names = [f"thread {each.name!r}" for each in threads] + [f"process {each.name!r}" for each in processes]
    return ", ".join(names) or "an exit handler"
