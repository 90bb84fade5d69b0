"""Carries out the commands of a page as a reader would: one shell, block after block, in one folder."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .doc_outputs import missing
from .doc_pages import ROOT, Block
from .doc_scenes import Scene

_MARK = "=== block {} done ==="
_PRELUDE = """\
set -uo pipefail
"""
_WATCH = """trap 'code=$?; echo "$code $BASH_COMMAND" >> "$FAILURES"' ERR\n"""


@dataclass(frozen=True)
class Done:
    """What became of a scene.

    Args:
        blocks: that were carried out.
        printed: what each of them printed, on both streams.
        failures: commands that did not end with 0, each with its exit code in front.
    """

    blocks: tuple[Block, ...]
    printed: tuple[str, ...]
    failures: tuple[str, ...]

    def problems(self, fails: Sequence[str] = ()) -> list[str]:
        """What is not as the page says; commands that begin as `fails` has them are there to fail."""
        problems = [f"exit code {line}" for line in self.failures if not line.startswith(tuple(fails))]
        for block, text in zip(self.blocks, self.printed, strict=True):
            line = missing(block.output, text) if block.output is not None else None
            if line is not None:
                problems.append(f"{block}: {line!r} is not what was printed:\n{text[-4000:]}")
        return problems if not problems else [*problems, self.printed[-1][-3000:]]


def work_folder(folder: Path) -> Path:
    """A folder in which the pages' commands may run: the repository's examples and manifests, and nothing in runs/."""
    for name in ("charts", "crds", "deploy", "docs", "images"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text("# the commands are in the PATH already\n")
    return folder


class Shell:
    """A reader's shell.

    Args:
        folder: where it runs.
        variables: what is in its environment, besides this process's.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._failures = folder / "failures"
        path = os.pathsep.join([str(self._programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "HOME": str(folder), "FAILURES": str(self._failures)}
        self._environment = {**os.environ, **own, **variables}

    def program(self, name: str, text: str) -> None:
        """Puts a script before the program of that name."""
        path = self._programs / name
        path.write_text(text)
        path.chmod(0o755)

    def carry_out(self, scene: Scene, seconds: float = 600) -> Done:
        """Runs a scene's blocks.

        Raises:
            AssertionError: the shell ended before the last block.
            subprocess.TimeoutExpired: the blocks took too long.
        """
        blocks = scene.blocks
        self._failures.write_text("")
        log = self.folder / "shell.log"
        with log.open("w") as out:
            shell = subprocess.Popen(
                ["bash", "-c", _script(scene, blocks)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,
            )
            try:
                shell.wait(seconds)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
        parts = re.split(_MARK.format(r"\d+") + "\n", log.read_text(errors="replace"))
        if len(parts) != len(blocks) + 1:
            before = Path(f"{self._failures}.log")
            text = before.read_text() if before.exists() else ""
            raise AssertionError(
                f"the shell ended before {blocks[len(parts) - 1]}:\n{parts[-1][-4000:]}\n{text[-2000:]}"
            )
        return Done(tuple(blocks), tuple(parts[:-1]), tuple(self._failures.read_text().splitlines()))


def _script(scene: Scene, blocks: Sequence[Block]) -> str:
    parts, section = [_PRELUDE, _hook(scene, ""), _WATCH], ""
    for number, block in enumerate(blocks):
        if block.section != section:
            section = block.section
            parts.append(_hook(scene, section))
        code = block.code
        for text, own in scene.settings.items():
            code = code.replace(text, own)
        parts.append(f"{code}\necho '{_MARK.format(number)}'\n")
    return "".join(parts)


def _hook(scene: Scene, section: str) -> str:
    """The commands before a section; what they print is no part of the page."""
    code = scene.before.get(section)
    return f'{{ {code}\n}} > "$FAILURES.log" 2>&1 || exit 99\n' if code else ""
