"""Size does not matter: many files and large ones need little memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from ippo_trainer.store.parallel import for_each

MANY = """
import resource, sys
from pathlib import Path
from ippo_trainer.store.artifact import fetch, publish
from ippo_trainer.store.local import LocalStore
home, count = Path(sys.argv[1]), int(sys.argv[2])
for n in range(count):
    folder = home / "source" / str(n % 100)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(n)).write_bytes(b"%d" % n)
publish(LocalStore(home / "warm"), "q", home / "source" / "0", "q")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = LocalStore(home / "store")
ref = publish(store, "q", home / "source", "q")
assert len(fetch(store, ref, home / "out", "q").files) == count
assert (home / "out" / "99" / str(count - 1)).read_bytes() == b"%d" % (count - 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

LARGE = """
import resource, sys
from pathlib import Path
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import fetch, publish
home, endpoint = Path(sys.argv[1]), sys.argv[2]
location = StoreLocation(directory=str(home / "store")) if endpoint == "local" else StoreLocation(
    s3=S3Location(bucket="ippo-tests", prefix="large", endpoint_url=endpoint))
store = open_store(location)
for name, size in (("warm", 1 << 20), ("large", int(sys.argv[3]))):
    (home / name).mkdir()
    with (home / name / "f").open("wb") as file:
        file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ref = publish(store, "q", home / name, "q")
    fetch(store, ref, home / (name + ".out"), "q")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _peak_mib(script: str, *arguments: str) -> float:
    """How much a process's peak resident memory grew, in MiB."""
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout) / (1024 if sys.platform == "linux" else 1 << 20)


@pytest.mark.parametrize(("count", "most"), [(2000, 12), pytest.param(10_000, 60, marks=pytest.mark.slow)])
def test_many_files(tmp_path: Path, count: int, most: int) -> None:
    assert _peak_mib(MANY, str(tmp_path), str(count)) < most


@pytest.mark.parametrize("kind", ["local", "real_s3"])
def test_a_large_file(tmp_path: Path, request: pytest.FixtureRequest, credentials: None, kind: str) -> None:
    """Neither its bytes nor those of its parts are held."""
    endpoint = "local" if kind == "local" else request.getfixturevalue(kind)
    assert _peak_mib(LARGE, str(tmp_path), endpoint, str(128 << 20)) < 32


def test_for_each_takes_items_as_threads_become_free() -> None:
    """A million items without a million futures."""
    taken, most_ahead, done = 0, 0, []

    def items() -> range:
        nonlocal taken, most_ahead
        for n in range(5000):
            taken += 1
            most_ahead = max(most_ahead, taken - len(done))
            yield n

    assert for_each(lambda n: done.append(n) or n * 2, items(), workers=4) == [n * 2 for n in range(5000)]
    assert most_ahead <= 9


def test_for_each_raises_what_went_wrong_and_stops() -> None:
    called = []

    def fail(n: int) -> None:
        called.append(n)
        if n == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        for_each(fail, range(10_000), workers=2)
    assert len(called) < 100
