"""Binaries of a lab beside the repository, where there is one: etcd, kube-apiserver, an S3 server, helm, kstatus, …"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def find_lab() -> Path | None:
    """The lab's script: `$IPPO_LAB`, or the one beside the repository."""
    folder = os.environ.get("IPPO_LAB")
    script = Path(folder) if folder else Path(__file__).resolve().parents[3] / "shared" / "lab" / "lab"
    return script if script.exists() else None


def unpack(*command: str) -> Path | None:
    """The folder that `lab assets` or `lab bin` prints; None without a lab.

    One process at a time: a binary that another test process still unpacks cannot be run ("Text file busy").
    """
    script = find_lab()
    if script is None:
        return None
    with (Path(tempfile.gettempdir()) / f"ippo-lab-unpack-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([str(script), *command], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(command)} failed: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def find_program(name: str) -> Path | None:
    """$NAME, the one on the PATH, or the lab's."""
    named = os.environ.get(name.upper()) or shutil.which(name)
    folder = None if named else unpack("bin")
    program = Path(named) if named else folder / name if folder is not None else None
    return program if program is not None and program.exists() else None
