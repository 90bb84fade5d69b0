"""Where these tests run: any cluster that the environment names, or a lab of their own."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.lab import find_lab

ROOT = Path(__file__).parents[2]
ARCHIVES = ROOT / "build" / "images"
NEEDED = (
    "needs a cluster: IPPO_E2E_KUBECONFIG, with IPPO_E2E_OPERATOR_IMAGE, IPPO_E2E_TRAINER_IMAGE, IPPO_E2E_S3_ENDPOINT "
    "(as pods see it), IPPO_E2E_S3_ACCESS_KEY and IPPO_E2E_S3_SECRET_KEY; or a lab (IPPO_LAB, or ../shared/lab/lab "
    "beside the repository) and image archives (make e2e builds them)"
)
GATEWAY = "10.244.0.1"
"""The lab's node as its pods see it."""
FOREIGN_IMAGE = "lab.local/pause:1"
"""An image on the lab's node that has nothing of ours in it."""


class NoPlaceError(Exception):
    """There is nowhere to run; the message says what is missing."""


@dataclass(frozen=True)
class Store:
    """An S3 store.

    Args:
        endpoint: its address as pods see it.
        local: its address from here.
    """

    endpoint: str
    local: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def credentials(self) -> str:
        """An AWS credentials file."""
        return f"[default]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n"


@dataclass(frozen=True)
class Place:
    """A cluster, the images that its nodes have or can pull, and a store.

    Args:
        lab: the script that made the cluster, for tests that stop its parts; None for another cluster.
    """

    kubeconfig: Path
    operator_image: str
    trainer_image: str
    store: Store
    programs: Path | None = None
    lab: Path | None = None

    @property
    def path(self) -> str:
        """PATH with helm and kubectl in it."""
        return os.pathsep.join([*([str(self.programs)] if self.programs else []), os.environ["PATH"]])

    def image(self, variable: str, archive: Path, name: str) -> str:
        """The name of an image that not all of these tests need.

        Args:
            variable: of the environment, with the name of an image that nodes have or can pull.
            archive: a lab's node gets this one, unless the variable is there.
            name: of the image in the archive.

        Raises:
            NoPlaceError: there is neither.
        """
        if variable in os.environ:
            return os.environ[variable]
        if self.lab is None or not archive.exists():
            raise NoPlaceError(f"needs {variable}, or a lab and {archive}: make e2e-all builds it")
        call(self.lab, "load", str(archive))
        return name


@contextmanager
def place() -> Iterator[Place]:
    """A place to run, for as long as it is used.

    Raises:
        NoPlaceError: none is there.
    """
    if "IPPO_E2E_KUBECONFIG" in os.environ:
        yield _named()
        return
    script = find_lab()
    if script is None:
        raise NoPlaceError(NEEDED)
    with _lab(script) as place:
        yield place


def _named() -> Place:
    names = ("KUBECONFIG", "OPERATOR_IMAGE", "TRAINER_IMAGE", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY")
    settings = {name: os.environ.get(f"IPPO_E2E_{name}", "") for name in names}
    missing = [f"IPPO_E2E_{name}" for name, value in settings.items() if not value]
    if missing:
        raise NoPlaceError(f"IPPO_E2E_KUBECONFIG is set, but not {', '.join(missing)}")
    local = os.environ.get("IPPO_E2E_S3_LOCAL", settings["S3_ENDPOINT"])
    store = Store(settings["S3_ENDPOINT"], local, settings["S3_ACCESS_KEY"], settings["S3_SECRET_KEY"])
    script = Path(os.environ["IPPO_E2E_LAB"]) if "IPPO_E2E_LAB" in os.environ else None
    programs = Path(call(script, "bin").strip()) if script else None
    return Place(
        Path(settings["KUBECONFIG"]), settings["OPERATOR_IMAGE"], settings["TRAINER_IMAGE"], store, programs, script
    )


@contextmanager
def _lab(script: Path) -> Iterator[Place]:
    """A lab of our own, with the images. One per machine: others wait for the lock."""
    folder = Path(os.environ.get("IPPO_E2E_ARCHIVES", ARCHIVES))
    archives = [folder / name for name in ("operator.tar", "trainer-cpu.tar")]
    missing = [str(archive) for archive in archives if not archive.exists()]
    if missing:
        raise NoPlaceError(f"needs the images' archives, {', '.join(missing)}: make e2e builds them")
    if os.geteuid() != 0:
        raise NoPlaceError("a lab with real pods needs root")
    absent = [name for name in ("containerd", "runc", "iptables", "conntrack", "ip") if shutil.which(name) is None]
    if absent:
        raise NoPlaceError(f"a lab with real pods needs {', '.join(absent)}: apt-get install -y $({script} packages)")
    variable = os.environ.get("IPPO_LAB_LOCK")
    lock = Path(variable) if variable else Path(tempfile.gettempdir()) / f"ippo-lab-{os.getuid()}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if "running" in call(script, "status"):
            raise RuntimeError(f"a lab is up already; if nobody needs it: {script} down")
        try:
            kubeconfig = Path(call(script, "up").splitlines()[-1])
            exports = call(script, "s3")
            call(script, "load", *map(str, archives))
            yield _in_lab(script, kubeconfig, exports)
        finally:
            call(script, "down")


def _in_lab(script: Path, kubeconfig: Path, exports: str) -> Place:
    words = dict(word.split("=", 1) for word in exports.split() if "=" in word)
    local = words["AWS_ENDPOINT_URL"]
    inside = local.replace("127.0.0.1", GATEWAY)
    store = Store(inside, local, words["AWS_ACCESS_KEY_ID"], words["AWS_SECRET_ACCESS_KEY"])
    images = (f"ippo-operator:{version()}", f"ippo-trainer:{version()}-cpu")
    return Place(kubeconfig, *images, store, Path(call(script, "bin").strip()), script)


def version(project: Path = ROOT) -> str:
    """Of a checkout of this project."""
    text = (project / "pyproject.toml").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("version"))


def call(script: Path, *arguments: str) -> str:
    """What the lab's script prints. Its processes outlive it, so there are no pipes that would wait for them."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command = [str(script), *arguments]
        done = subprocess.run(command, stdout=out, stderr=errors, timeout=600)
        out.seek(0)
        errors.seek(0)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {errors.read().strip()[-2000:]}")
        return out.read()
