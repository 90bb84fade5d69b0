"""A checkpoint is replaced as a whole; a kill at any put or delete leaves the old or the new one."""

import logging
from pathlib import Path

import pytest
from ippo_trainer.contract.errors import BadSpecError, TryAgainError
from ippo_trainer.store.base import Store
from ippo_trainer.store.checkpoint import PROBE, StageCheckpoint
from ippo_trainer.store.local import LocalStore
from ippo_trainer.store.parallel import for_each
from ippo_trainer.store.s3 import S3Store

from .conftest import Fault, FaultProxy

FOLDER = "iterations/0001/policy/checkpoint"
INPUTS, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def of(store: Store, folder: str = FOLDER, digest: str = INPUTS) -> StageCheckpoint:
    return StageCheckpoint(store, folder, digest)


def state(tmp_path: Path, step: int) -> Path:
    directory = tmp_path / f"state{step}"
    directory.mkdir(exist_ok=True)
    for name in ("model", "optimiser", "rng"):
        (directory / name).write_text(f"{name} at {step}")
    return directory


def test_save_load_replace_clear(store: Store, tmp_path: Path) -> None:
    assert of(store).load(tmp_path / "0") is None
    of(store).save(state(tmp_path, 1), 1)
    assert of(store).load(tmp_path / "1") == 1
    of(store).save(state(tmp_path, 2), 2)
    assert of(store).load(tmp_path / "2") == 2
    assert (tmp_path / "2" / "rng").read_text() == "rng at 2"
    assert len(list(store.list(FOLDER))) == 3 + 1 + 1, "files, manifest and pointer of the newest only"
    of(store).clear()
    assert list(store.list(FOLDER)) == []
    assert of(store).load(tmp_path / "3") is None


def test_the_probe_leaves_nothing_and_touches_no_checkpoint(store: Store, tmp_path: Path) -> None:
    of(store).check_writable()
    assert list(store.list(FOLDER)) == []
    of(store).save(state(tmp_path, 1), 1)
    of(store).check_writable()
    assert of(store).load(tmp_path / "1") == 1
    store.put(f"{FOLDER}/{PROBE}-0", b"left by a kill")
    assert of(store).load(tmp_path / "2") == 1
    assert not any(PROBE in found.key for found in store.list(FOLDER))


@pytest.mark.parametrize(("method", "right"), [("PUT", "s3:PutObject"), ("DELETE", "s3:DeleteObject")])
def test_a_right_that_is_missing_is_named_before_the_work(
    faulty: S3Store, proxy: FaultProxy, method: str, right: str
) -> None:
    proxy.faults = [Fault(method=method, status=403, code="AccessDenied")]
    with pytest.raises(BadSpecError, match=f"403 AccessDenied.*{right}"):
        of(faulty).check_writable()


def test_a_store_that_ignores_conditional_puts_is_noticed_before_the_work(faulty: S3Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method="PUT", how="forget", header="If-None-Match")]
    with pytest.raises(
        BadSpecError, match=r"s3://.*ignores conditional puts \(If-None-Match: \*\).*another|Use a store"
    ):
        of(faulty).check_writable()
    assert list(faulty.list(FOLDER)) == []


def test_attempts_that_look_at_the_same_time_do_not_disturb_each_other(store: Store) -> None:
    for_each(lambda _: of(store).check_writable(), range(16))
    assert list(store.list(FOLDER)) == []


def test_saving_the_same_step_again_keeps_it(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        of(store).save(state(tmp_path, 1), 1)
    assert of(store).load(tmp_path / "out") == 1


def test_a_stage_with_other_inputs_starts_over(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of(store).save(state(tmp_path, 1), 1)
    assert of(store, digest=OTHER).load(tmp_path / "out") is None
    assert "other inputs" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", ["model", "manifest.json", "pointer.json"])
@pytest.mark.parametrize("how", ["alter", "delete"])
def test_a_damaged_checkpoint_is_left_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, victim: str, how: str
) -> None:
    store = LocalStore(tmp_path / "store")
    of(store).save(state(tmp_path, 1), 1)
    key = next(found.key for found in store.list(FOLDER) if found.key.endswith(victim))
    if how == "delete":
        store.delete(key)
    else:
        store.put(key, b"x" * len(store.read(key)))
    caplog.set_level(logging.WARNING)
    assert of(store).load(tmp_path / "out") is None
    assert not (tmp_path / "out").exists()
    assert "starting over" in caplog.text or (victim, how) == ("pointer.json", "delete")
    of(store).save(state(tmp_path, 2), 2)
    assert of(store).load(tmp_path / "out") == 2


def test_a_pointer_out_of_its_folder_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path / "store")
    of(store, "elsewhere").save(state(tmp_path, 7), 7)
    store.put(f"{FOLDER}/pointer.json", store.read("elsewhere/pointer.json"))
    assert of(store).load(tmp_path / "out") is None
    assert "points out of its folder" in caplog.text
    of(store).save(state(tmp_path, 1), 1)
    assert of(store, "elsewhere").load(tmp_path / "out") == 7


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
    of(mortal).save(state(tmp_path, 1), 1)
    mortal.lives = moment
    killed = False
    try:
        of(mortal).save(state(tmp_path, 2), 2)
    except KilledError:
        killed = True
    assert killed == (moment < 9)

    store = LocalStore(tmp_path / "store")
    step = of(store).load(tmp_path / "out")
    assert step == (1 if moment < 5 else 2)
    assert (tmp_path / "out" / "model").read_text() == f"model at {step}"
    assert len(list(store.list(FOLDER))) == 5, "what the kill left was swept"
    of(store).save(state(tmp_path, 3), 3)
    assert of(store).load(tmp_path / "next") == 3


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_clearing_never_leaves_a_half(tmp_path: Path, moment: int) -> None:
    mortal = Mortal(tmp_path / "store")
    of(mortal).save(state(tmp_path, 1), 1)
    mortal.lives = moment
    try:
        of(mortal).clear()
    except KilledError:
        assert of(LocalStore(mortal.root)).load(tmp_path / "out") == (1 if moment == 0 else None)
    else:
        assert moment >= 5


def test_a_store_that_is_down_is_no_reason_to_start_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    of(store).save(state(tmp_path, 1), 1)

    def down(*_: object) -> None:
        raise TryAgainError("S3 is down")

    monkeypatch.setattr(store, "download", down)
    with pytest.raises(TryAgainError):
        of(store).load(tmp_path / "out")
