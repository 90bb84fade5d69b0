"""The artifact store: a local directory or S3 behind one interface, and artifacts and checkpoints on top of it."""

from pathlib import Path

from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.store.base import Store


def open_store(location: StoreLocation) -> Store:
    """The store at a location. It is not contacted before its first use."""
    if location.directory is not None:
        from ippo_trainer.store.local import LocalStore

        return LocalStore(Path(location.directory))
    assert location.s3 is not None
    from ippo_trainer.store.s3 import S3Store

    return S3Store(location.s3)
