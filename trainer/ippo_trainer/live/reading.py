"""The events in the store: which segments there are, and what is in them."""

import gzip
import io
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.server_log import is_segment
from ippo_trainer.live.checked import read_event
from ippo_trainer.live.events import Event
from ippo_trainer.store.base import Store


def segments(store: Store, folder: str = "") -> Iterator[str]:
    """Keys of the segments in a store, or in the folder of a day, in no particular order."""
    return (info.key for info in store.list(folder) if is_segment(info.key))


def began_at(key: str) -> float:
    """When a segment began, in seconds since 1970 UTC. Its events are hardly older: they waited to be written."""
    name = key.rpartition("/")[2]
    return datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def newest_days(now: float) -> list[str]:
    """Folders of yesterday and today: where a gateway that keeps up with its log puts segments."""
    today = datetime.fromtimestamp(now, UTC)
    return [f"{today - timedelta(days=days):%Y-%m-%d}" for days in (1, 0)]


def events(store: Store, key: str) -> Iterator[Event]:
    """The events of a segment, in order.

    Raises:
        ObjectNotFoundError: it is gone.
        BadDataError: a damaged segment, or what a newer gateway wrote; it is named.
    """
    body = store.read(key)
    number = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            for number, line in enumerate(file, 1):
                yield read_event(line, f"{store.describe(key)}, line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise BadDataError(
            f"{store.describe(key)} is damaged after line {number}", "Delete the segment, or put it back from a copy."
        ) from error
