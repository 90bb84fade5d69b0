"""What a stage process does before it becomes the stage."""

import importlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from ippo_trainer.contract.errors import BAD_SPEC

from ippo_operator.local.lifeline import die_with_runner


def run(target: str, spec: Path, shard: int | None, log: Path, termination: Path, work: Path) -> None:
    """Runs `target` (`module:function`) on the spec and exits with what it returns.

    A session of its own keeps a Ctrl-C on the terminal away from it: the runner alone tells stages to stop.
    """
    os.setsid()
    die_with_runner()
    _redirect(log)
    multiprocessing.set_start_method(None, force=True)  # a stage's own workers start as under `ippo-stage`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    module, _, function = target.partition(":")
    try:
        run_stage = getattr(importlib.import_module(module), function)
    except ImportError as error:
        print(f"cannot import {module}: {error}; install the trainer: pip install 'iterative-ppo[trainer]'")
        sys.exit(BAD_SPEC)
    code: int = run_stage(spec, shard, termination, work)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result stands; nothing may cut the clean-up short
    sys.exit(code)


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # The fork server's streams may buffer for a terminal that is not theirs any more.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
