"""A checkpoint is replaced as a whole; a kill at any put or delete leaves the old or the new one."""

import logging
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadSpecError, TryAgainError
from ippo_trainer.store import checkpoint
from ippo_trainer.store.base import Store
from ippo_trainer.store.local import LocalStore
from ippo_trainer.store.parallel import for_each
from ippo_trainer.store.s3 import S3Store

from .conftest import Fault, FaultProxy

FOLDER = "iterations/0001/policy/checkpoint"
INPUTS, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def state(tmp_path: Path, step: int) -> Path:
    directory = tmp_path / f"state{step}"
    directory.mkdir(exist_ok=True)
    for name in ("model", "optimiser", "rng"):
        (directory / name).write_text(f"{name} at {step}")
    return directory


def test_save_load_replace_clear(store: Store, tmp_path: Path) -> None:
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "0") is None
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "1") == 1
    checkpoint.save(store, FOLDER, state(tmp_path, 2), 2, INPUTS)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "2") == 2
    assert (tmp_path / "2" / "rng").read_text() == "rng at 2"
    assert len(list(store.list(FOLDER))) == 3 + 1 + 1, "files, manifest and pointer of the newest only"
    checkpoint.clear(store, FOLDER)
    assert list(store.list(FOLDER)) == []
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "3") is None


def test_the_probe_leaves_nothing_and_touches_no_checkpoint(store: Store, tmp_path: Path) -> None:
    checkpoint.check_writable(store, FOLDER)
    assert list(store.list(FOLDER)) == []
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    checkpoint.check_writable(store, FOLDER)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "1") == 1
    store.put(f"{FOLDER}/{checkpoint.PROBE}-0", b"left by a kill")
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "2") == 1
    assert not any(checkpoint.PROBE in found.key for found in store.list(FOLDER))


@pytest.mark.parametrize(("method", "right"), [("PUT", "s3:PutObject"), ("DELETE", "s3:DeleteObject")])
def test_a_right_that_is_missing_is_named_before_the_work(
    faulty: S3Store, proxy: FaultProxy, method: str, right: str
) -> None:
    proxy.faults = [Fault(method=method, status=403, code="AccessDenied")]
    with pytest.raises(BadSpecError, match=f"403 AccessDenied.*{right}"):
        checkpoint.check_writable(faulty, FOLDER)


def test_a_store_that_ignores_conditional_puts_is_noticed_before_the_work(faulty: S3Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method="PUT", how="forget", header="If-None-Match")]
    with pytest.raises(
        BadSpecError, match=r"s3://.*ignores conditional puts \(If-None-Match: \*\).*another|Use a store"
    ):
        checkpoint.check_writable(faulty, FOLDER)
    assert list(faulty.list(FOLDER)) == []


def test_attempts_that_look_at_the_same_time_do_not_disturb_each_other(store: Store) -> None:
    for_each(lambda _: checkpoint.check_writable(store, FOLDER), range(16))
    assert list(store.list(FOLDER)) == []


def test_saving_the_same_step_again_keeps_it(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out") == 1


def test_a_stage_with_other_inputs_starts_over(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    assert checkpoint.load(store, FOLDER, OTHER, tmp_path / "out") is None
    assert "other inputs" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", ["model", "manifest.json", "pointer.json"])
@pytest.mark.parametrize("how", ["alter", "delete"])
def test_a_damaged_checkpoint_is_left_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, victim: str, how: str
) -> None:
    store = LocalStore(tmp_path / "store")
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    key = next(found.key for found in store.list(FOLDER) if found.key.endswith(victim))
    if how == "delete":
        store.delete(key)
    else:
        store.put(key, b"x" * len(store.read(key)))
    caplog.set_level(logging.WARNING)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out") is None
    assert not (tmp_path / "out").exists()
    assert "starting over" in caplog.text or (victim, how) == ("pointer.json", "delete")
    checkpoint.save(store, FOLDER, state(tmp_path, 2), 2, INPUTS)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out") == 2


def test_a_pointer_out_of_its_folder_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path / "store")
    checkpoint.save(store, "elsewhere", state(tmp_path, 7), 7, INPUTS)
    store.put(f"{FOLDER}/pointer.json", store.read("elsewhere/pointer.json"))
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out") is None
    assert "points out of its folder" in caplog.text
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)
    assert checkpoint.load(store, "elsewhere", INPUTS, tmp_path / "out") == 7


class KilledError(BaseException):
    pass


class Mortal(LocalStore):
    """Dies before its n-th change of the store."""

    lives = 10**9

    def _tick(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise KilledError

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        self._tick()
        super().put(key, source, if_absent=if_absent)

    def delete(self, key: str) -> None:
        self._tick()
        super().delete(key)


@pytest.mark.parametrize("moment", range(10))
def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path, moment: int) -> None:
    """3 files, manifest, pointer, then 4 deletions: nine changes, a kill before each, and none."""
    mortal = Mortal(tmp_path / "store")
    checkpoint.save(mortal, FOLDER, state(tmp_path, 1), 1, INPUTS)
    mortal.lives = moment
    killed = False
    try:
        checkpoint.save(mortal, FOLDER, state(tmp_path, 2), 2, INPUTS)
    except KilledError:
        killed = True
    assert killed == (moment < 9)

    store = LocalStore(tmp_path / "store")
    step = checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out")
    assert step == (1 if moment < 5 else 2)
    assert (tmp_path / "out" / "model").read_text() == f"model at {step}"
    assert len(list(store.list(FOLDER))) == 5, "what the kill left was swept"
    checkpoint.save(store, FOLDER, state(tmp_path, 3), 3, INPUTS)
    assert checkpoint.load(store, FOLDER, INPUTS, tmp_path / "next") == 3


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_clearing_never_leaves_a_half(tmp_path: Path, moment: int) -> None:
    mortal = Mortal(tmp_path / "store")
    checkpoint.save(mortal, FOLDER, state(tmp_path, 1), 1, INPUTS)
    mortal.lives = moment
    try:
        checkpoint.clear(mortal, FOLDER)
    except KilledError:
        assert checkpoint.load(LocalStore(mortal.root), FOLDER, INPUTS, tmp_path / "out") == (
            1 if moment == 0 else None
        )
    else:
        assert moment >= 5


def test_a_store_that_is_down_is_no_reason_to_start_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    checkpoint.save(store, FOLDER, state(tmp_path, 1), 1, INPUTS)

    def down(*_: object) -> None:
        raise TryAgainError("S3 is down")

    monkeypatch.setattr(store, "download", down)
    with pytest.raises(TryAgainError):
        checkpoint.load(store, FOLDER, INPUTS, tmp_path / "out")
