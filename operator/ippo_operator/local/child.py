"""What a process does before it becomes a stage or a server."""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BAD_SPEC

from ippo_operator.local.lifeline import die_with_runner


def run(target: str, spec: Path, shard: int | None, log: Path, termination: Path, work: Path) -> None:
    """Runs `target` (`module:function`) on the spec and exits with what it returns.

    A session of its own keeps a Ctrl-C on the terminal away from it: the runner alone tells stages to stop.
    """
    _begin(log)
    code: int = _function(target)(spec, shard, termination, work)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result stands; nothing may cut the clean-up short
    sys.exit(code)


@dataclass(frozen=True)
class Program:
    """Commands, one after the other as long as they end with 0.

    Args:
        commands: `module:function` of each, as of console scripts, and its arguments.
        environment: variables besides the runner's.
        log: a file that what is printed is added to.
    """

    commands: tuple[tuple[str, tuple[str, ...]], ...]
    environment: Mapping[str, str]
    log: Path


def run_program(program: Program) -> None:
    """Runs the commands and exits with the last one's code."""
    _begin(program.log)
    os.environ.update(program.environment)
    code = 0
    for target, arguments in program.commands:
        code = _function(target)(arguments)
        if code != 0:
            break
    sys.exit(code)


def _begin(log: Path) -> None:
    os.setsid()
    die_with_runner()
    _redirect(log)
    multiprocessing.set_start_method(None, force=True)  # a stage's own workers start as under `ippo-stage`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


def _function(target: str) -> Callable[..., Any]:
    module, _, function = target.partition(":")
    try:
        command: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except ImportError as error:
        print(f"cannot import {module}: {error}; install the trainer: pip install 'iterative-ppo[trainer]'")
        sys.exit(BAD_SPEC)
    return command


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # The fork server's streams may buffer for a terminal that is not theirs any more.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
