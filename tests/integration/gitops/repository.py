"""A Git repository that GitOps tools read."""

import subprocess
from pathlib import Path


class Repository:
    """A bare repository and a working tree beside it.

    Args:
        repositories: the folder that is served.
        name: of the repository.
        folder: for the working tree.
    """

    def __init__(self, repositories: Path, name: str, folder: Path) -> None:
        self.name = name
        self._bare = repositories / f"{name}.git"
        self._tree = folder / name
        self._tree.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(self._bare)], check=True)
        self._git("init", "--quiet", "-b", "main")
        self._git("remote", "add", "origin", str(self._bare))

    def write(self, path: str, text: str | None) -> None:
        """A file; None removes it."""
        file = self._tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            file.unlink()
        else:
            file.write_text(text)

    def push(self, message: str) -> str:
        """Commits everything; returns the commit."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "-m", message)
        self._git("push", "--quiet", "origin", "main")
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        settings = ("-c", "user.name=tests", "-c", "user.email=tests@git.example", "-c", "commit.gpgsign=false")
        command = ["git", *settings, *arguments]
        done = subprocess.run(command, cwd=self._tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
