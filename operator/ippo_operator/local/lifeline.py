"""No process outlives the runner, not even a runner that is killed with SIGKILL."""

import ctypes
import os
import signal
import sys
import threading
from multiprocessing import parent_process

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_runner() -> None:
    """Kills this stage process when the runner ends.

    On Linux the runner's end kills the fork server, whose end kills this process. Elsewhere a thread waits for it.
    """
    runner = parent_process()
    if runner is None:
        return
    if sys.platform == "linux":
        die_with_parent()
        if not runner.is_alive():  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_wait_and_die, daemon=True).start()


def _wait_and_die() -> None:
    runner = parent_process()
    if runner is not None:
        runner.join()
    os.kill(os.getpid(), signal.SIGKILL)
