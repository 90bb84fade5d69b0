"""What live conversations come to, of all replicas, as far as it is in the store: a cache on the disk that reads each
segment once, and counts."""

import logging
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from ippo_trainer.contract.live import ArmReport, LiveReport, PersonaReport, Routes
from ippo_trainer.contract.personas import MOST_PERSONAS
from ippo_trainer.live.canary import verdict as canary_verdict
from ippo_trainer.live.conversations import without_texts
from ippo_trainer.live.reading import events, newest_days, segments
from ippo_trainer.live.sides import arm, sides, sums
from ippo_trainer.live.standing import Rules
from ippo_trainer.live.table import EventTable, remove
from ippo_trainer.store.base import ObjectNotFoundError, Store

_EVERY = 3600.0
"""Seconds between two looks at all folders: one holds what a gateway could put only days later."""
_ARM = "FROM conversations WHERE digest = :digest AND persona = '' AND NOT handed"
_OWN = "FROM conversations WHERE digest = :digest AND NOT handed AND known_at <= :now"
_log = logging.getLogger(__name__)


class LiveIndex:
    """Reports on conversations. Not for several threads at once.

    Args:
        path: of its file, made anew where it is absent or damaged.
        store: the folder `layout.LIVE` of a run.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path, self._store = path, store
        self._table: EventTable | None = None
        self._rules: Rules | None = None
        self._read_all = float("-inf")
        """When all folders were looked at."""

    def close(self) -> None:
        """Closes the file."""
        if self._table is not None:
            self._table.close()
        self._table = None

    def report(self, routes: Routes, now: float) -> LiveReport:
        """Reads what is new in the store, and counts.

        Args:
            routes: whose conversations.
            now: seconds since 1970 UTC.

        Raises:
            BadDataError: a damaged segment, or one that a newer gateway wrote.
            StageError: a store that does not answer, a disk that is full.
        """
        try:
            return self._report(routes, now)
        except sqlite3.DatabaseError as error:
            _log.warning("%s is damaged (%s) and is made anew", self._path, error)
            self.close()
            remove(self._path)
            return self._report(routes, now)

    def _report(self, routes: Routes, now: float) -> LiveReport:
        table = self._open(Rules.of(routes))
        self._read(table, now)
        return _counted(table, routes, now)

    def _open(self, rules: Rules) -> EventTable:
        if self._table is None or rules != self._rules:
            self.close()
            self._table, self._rules = EventTable(self._path, rules, without_texts), rules
            self._read_all = float("-inf")
        return self._table

    def _read(self, table: EventTable, now: float) -> None:
        everything = now >= self._read_all + _EVERY
        counts: Counter[str] = Counter()
        for folder in ("",) if everything else newest_days(now):
            for key in segments(self._store, folder):
                if not table.holds(key):
                    try:
                        table.add(key, events(self._store, key), counts)
                    except ObjectNotFoundError:
                        continue  # retention or an erasure took it away meanwhile
        table.settle(counts)
        if everything:
            self._read_all = now


def _counted(table: EventTable, routes: Routes, now: float) -> LiveReport:
    digest, canary = routes.active.digest, routes.canary
    [(usable, outcomes)] = table.query(f"SELECT count(*), total(outcome) {_OWN}", digest=digest, now=now)
    newest = "GROUP BY persona ORDER BY max(began) DESC, persona LIMIT :most"  # a run may have had any number
    personas = table.query(
        f"SELECT persona, count(*), total(outcome) {_OWN} AND persona != '' {newest}",
        digest=digest,
        now=now,
        most=MOST_PERSONAS,
    )
    report = LiveReport(
        time=now,
        active=_arm(table, digest, now),
        usable=usable,
        usable_outcomes=int(outcomes),
        personas=tuple(
            PersonaReport(name=name, conversations=conversations, outcomes=int(each))
            for name, conversations, each in sorted(personas)
        ),
    )
    if canary is None:
        return report
    control, candidate = sides(table, routes.active, canary, Rules.of(routes).window, now)
    verdict = canary_verdict(canary, control, candidate, now)
    return report.model_copy(update={"control": control, "candidate": candidate, "verdict": verdict})


def _arm(table: EventTable, digest: str, now: float) -> ArmReport:
    """Conversations of one policy as it is."""
    values: dict[str, Any] = {"digest": digest, "now": now}
    [row] = table.query(f"SELECT {sums('known_at <= :now')} {_ARM}", **values)
    return arm(table, digest, row, f"SELECT name {_ARM}", values)
