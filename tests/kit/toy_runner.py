"""A runner with stand-in stages as a program of its own, to be killed."""

import sys
from pathlib import Path

from ippo_operator.api.status import RunStatus
from ippo_operator.local.folder import RunFolder
from ippo_operator.local.runner import Runner, Signals
from ippo_operator.plan.types import Event, ObservedLive

from tests.kit.planner_world import make_run
from tests.kit.toy_stages import toy_launcher


class Quiet:
    """Says only that it stops, by a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def event(self, event: Event) -> None:
        print(event.message, file=sys.stderr)

    def tick(self, status: RunStatus, job: Path | None, live: ObservedLive | None) -> None:
        pass

    def listening(self, url: str) -> None:
        pass

    def stopping(self) -> None:
        (self._folder / "stopping").touch()


def main(path: str, rules: str) -> None:
    """Runs until it is done or told to stop."""
    folder = RunFolder(Path(path))
    policy = {"base": "tiny:d1", "systemPrompt": rules}
    run = make_run(policy=policy, iterations={"max": 1}, retries={"backoffSeconds": 0})
    with folder.lock(), Signals() as signals:
        Runner(folder, Quiet(folder.path), signals, toy_launcher(), slots=2).run(run)
