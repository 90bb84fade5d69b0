"""The gateway's part of the log: its journal, and what brings that into the store."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ippo_trainer.gateway.metrics import figure
from ippo_trainer.gateway.settings import GatewaySettings
from ippo_trainer.live.events import CLOSE
from ippo_trainer.live.journal import Journal, JournalLimits
from ippo_trainer.live.redaction import redaction
from ippo_trainer.live.segments import Uploader
from ippo_trainer.store.base import Store


class Recorder(Collector):
    """A journal and its uploader, with their figures.

    Args:
        settings: of the gateway.
        store: the folder of segments.

    Raises:
        StageError: a function of redaction that cannot be loaded, or as `Journal`.
    """

    def __init__(self, settings: GatewaySettings, store: Store) -> None:
        limits = JournalLimits(waiting_bytes=settings.journal_bytes)
        self._redact = redaction(settings.redact)
        self.journal = Journal(settings.journal, limits, self._redact)
        self._uploader = Uploader(self.journal, store)

    def logged_id(self, conversation: str) -> str:
        """A conversation's id as it is in the log, by which readers see whose side of a test it is on. One that cannot
        be redacted is never logged."""
        try:
            return str(self._redact({"kind": CLOSE, "conversation_id": conversation})["conversation_id"])
        except Exception:  # of a function of the user's
            return conversation

    def close(self, seconds: float) -> None:
        """Writes what there is, for so many seconds at most; the rest stays on the disk."""
        self._uploader.close(seconds)
        self.journal.release()

    def collect(self) -> Iterator[Metric]:
        """Prometheus' figures, as of now."""
        journal, upload = self.journal.figures(), self._uploader.figures
        counts = (
            ("ippo_gateway_log_events", "Events that were logged", journal.written),
            ("ippo_gateway_log_refused", "Events that could not be logged", journal.refused),
            ("ippo_gateway_log_syncs", "Times that the disk was waited for", journal.syncs),
            ("ippo_gateway_log_segments", "Segments that were put into the store", upload.segments),
            ("ippo_gateway_log_failures", "Writes that the store refused", upload.failures),
        )
        for name, text, value in counts:
            yield figure(name, text, value, counter=True)
        for name, text, value in (
            ("ippo_gateway_log_waiting_bytes", "Bytes of events that are not in the store yet", journal.waiting_bytes),
            (
                "ippo_gateway_log_waiting_files",
                "Files of the journal that are not in the store yet",
                journal.waiting_files,
            ),
        ):
            yield figure(name, text, value)
