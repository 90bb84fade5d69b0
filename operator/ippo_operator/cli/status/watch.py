"""Live: redraws on a terminal, writes a line per change elsewhere, until the run ends."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from ippo_operator.cli.clusters import find
from ippo_operator.cli.errors import FAILED, CommandError
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cli.status.lines import lines
from ippo_operator.cli.status.progress import cluster_progress
from ippo_operator.cluster.errors import NotFoundError, UnavailableError
from ippo_operator.cluster.remote.runs import Runs
from ippo_operator.local.watch import Progress

INTERVAL = 2.0
PROGRESS_INTERVAL = 8.0
"""Logs are read more rarely than the run: a stage writes how far it is every ten seconds."""
_ENTER, _LEAVE, _HOME = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H\x1b[J"


def follow(
    runs: Runs,
    name: str,
    quiet: bool = False,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RunView:
    """Shows the run until it ends; returns it as it ended.

    Args:
        runs: of the cluster.
        name: of the run.
        quiet: show nothing.
        out: where to; by default, standard output.
        sleep: waits so many seconds.

    Raises:
        CommandError: there is no such run, or it was deleted.
    """
    out = sys.stdout if out is None else out
    first = find(runs, name)
    screen = Silent() if quiet else Screen(out) if out.isatty() else Lines(out)
    with screen:
        last = _until_ended(runs, first, screen, sleep)
    screen.close(last)
    return last


def _until_ended(runs: Runs, run: RunView, screen: "Silent", sleep: Callable[[float], None]) -> RunView:
    uid = run.raw["metadata"]["uid"]
    screen.show(runs, run)
    while not run.ended:
        sleep(INTERVAL)
        try:
            raw = runs.get(run.name)
        except NotFoundError:
            raise CommandError(f"the run {run.name} was deleted", FAILED) from None
        except UnavailableError as error:  # a laptop that sleeps, an API server that restarts
            screen.trouble(f"{error}; still trying")
            continue
        if raw["metadata"]["uid"] != uid:
            raise CommandError(f"the run {run.name} was deleted and made anew; watch it with the same command", FAILED)
        run = cluster_view(raw)
        screen.show(runs, run)
    return run


class Silent:
    """Nothing is shown."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, runs: Runs, run: RunView) -> None:
        """The run as it is now."""

    def trouble(self, text: str) -> None:
        """The API server does not answer."""

    def close(self, run: RunView) -> None:
        """The run has ended."""


class Lines(Silent):
    """A line per change."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last_line = ""

    def show(self, runs: Runs, run: RunView) -> None:
        self._say(f"{run.phase}, {run.status.progress or '0'}: {run.message}")

    def trouble(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        if text != self._last_line:
            self._last_line = text
            self._out.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            self._out.flush()


class Screen(Silent):
    """The whole status, redrawn on the terminal's other screen; what it ended with stays on the usual one."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._progress: Progress | str | None = None
        self._at: tuple[int, str | None, int] | None = None
        self._progress_time = 0.0

    def __enter__(self) -> None:
        self._out.write(_ENTER)

    def __exit__(self, *_: object) -> None:
        self._out.write(_LEAVE)
        self._out.flush()

    def show(self, runs: Runs, run: RunView) -> None:
        at = (run.status.iteration, run.status.stage, run.status.attempt)
        if at != self._at or self._clock() - self._progress_time >= PROGRESS_INTERVAL:
            self._at, self._progress_time = at, self._clock()
            self._progress = cluster_progress(runs, run)
        self._draw(lines(run, self._progress))

    def trouble(self, text: str) -> None:
        self._draw([text])

    def _draw(self, text: list[str]) -> None:
        size = shutil.get_terminal_size()
        visible = [line[: size.columns - 1] for line in text[: size.lines - 1]]
        self._out.write(_HOME + "\n".join(visible))
        self._out.flush()

    def close(self, run: RunView) -> None:
        self._out.write("\n".join(lines(run)) + "\n")
        self._out.flush()
