"""Events in a file of SQLite, each once, and the conversations that they add up to. Memory stays flat however many.

The file is a cache: whoever loses it reads the segments again.
"""

import json
import logging
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError, TryAgainError
from ippo_trainer.live.assignment import in_canary
from ippo_trainer.live.conversations import LiveConversation, fold, happened
from ippo_trainer.live.events import COMPLAINT, ERASED, OUTCOME, SUGGESTION, Event
from ippo_trainer.live.standing import Course, Rules, Statement, standing

TWICE = "events that were logged twice"
UNREADABLE = "conversations that cannot be read"
_FORMAT = ("format", "3")
"""Of the file; one of another format is made anew."""
_TOMBSTONE, _OTHER = -2, -1
"""What stands for the turn in events that are no suggestions."""
_MOST_EVENTS = 4096
"""Of a conversation, besides suggestions, that are looked at: the first ones."""
_BATCH = 1000
_BEGINNING, _END = -1e300, 1e300
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE segments (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE events (
    id BLOB NOT NULL UNIQUE, conversation TEXT NOT NULL, customer TEXT NOT NULL, turn INTEGER NOT NULL,
    time REAL NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX of_conversation ON events (conversation, turn, time, id);
CREATE INDEX of_customer ON events (customer, at) WHERE conversation = '';
CREATE TABLE conversations (
    name TEXT PRIMARY KEY, customer TEXT, digest TEXT, persona TEXT, began REAL, last REAL, closed REAL,
    statements TEXT, handed INTEGER, accepted INTEGER, abstained INTEGER, complained INTEGER,
    over_at REAL, known_at REAL, outcome INTEGER, outcome_at REAL, complaint INTEGER) WITHOUT ROWID;
CREATE INDEX of_policy ON conversations (digest, began);
CREATE INDEX of_time ON conversations (began);
CREATE INDEX of_same_customer ON conversations (customer, began, name) WHERE customer != '';
CREATE TABLE answers (conversation TEXT NOT NULL, seconds REAL NOT NULL);
CREATE INDEX of_answer ON answers (conversation);
CREATE TABLE changed (conversation TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE touched (customer TEXT, low REAL, high REAL);
CREATE INDEX of_touched ON touched (customer);
"""


_log = logging.getLogger(__name__)


class EventTable:
    """Events of segments. Not for several threads at once.

    Args:
        path: of the file; one that is there is gone on with if it is whole.
        rules: of the run. If they are others than the file's, all conversations are looked at again.
        shape: what is kept of an event.

    Raises:
        TryAgainError: from every method: the file cannot be written.
    """

    def __init__(self, path: Path, rules: Rules, shape: Callable[[Event], Event] = lambda event: event) -> None:
        self._path, self._rules, self._shape = path, rules, shape
        with self._errors():
            self._db = _opened(path)
            self._keep_rules()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def query(self, sql: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of `conversations` and `answers`; `in_canary` is `assignment`'s."""
        with self._errors():
            yield from self._db.execute(sql, values)

    def holds(self, key: str) -> bool:
        """Whether a segment was added."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM segments WHERE key = ?", (key,)).fetchone() is not None

    def add(self, key: str, events: Iterable[Event], counts: Counter[str]) -> None:
        """Adds the events of a segment, all or none; counts those that were there. Of two that differ under one id the
        earlier counts.

        Raises what reading `events` raises.
        """
        with self._errors(), self._db:
            for event in events:
                self._add(event, counts)
            self._db.execute("INSERT OR IGNORE INTO segments VALUES (?)", (key,))

    def settle(self, counts: Counter[str]) -> None:
        """Brings the rows of conversations up to date with the events."""
        with self._errors():
            while names := self._some("SELECT conversation FROM changed LIMIT ?"):
                with self._db:
                    for (name,) in names:
                        self._refold(name, counts)
                        self._db.execute("DELETE FROM changed WHERE conversation = ?", (name,))
            # What a customer's outcome belongs to depends on all of the customer's conversations.
            ranges = "SELECT customer, min(low), max(high) FROM touched GROUP BY customer LIMIT ?"
            while customers := self._some(ranges):
                with self._db:
                    for customer, low, high in customers:
                        for (name,) in self._siblings(customer, low, high):
                            self._stand(name)
                        self._db.execute("DELETE FROM touched WHERE customer = ?", (customer,))

    def conversation(self, name: str, counts: Counter[str]) -> LiveConversation | None:
        """What `fold` makes of a conversation's events; None where they cannot be read."""
        select = "SELECT body FROM events WHERE conversation = ? AND "
        with self._errors():
            others = self._db.execute(
                f"{select} turn < 0 ORDER BY turn, time, id LIMIT ?",
                (name, _MOST_EVENTS),
            )
            suggestions = self._db.execute(f"{select} turn >= 0 ORDER BY turn, time, id", (name,))
            try:
                return fold(
                    name, [_read(*row) for row in others], (_read(*row) for row in suggestions), self._rules, counts
                )
            except BadDataError:
                counts[UNREADABLE] += 1
                return None

    def _keep_rules(self) -> None:
        rules = json.dumps([self._rules.idle, self._rules.window])
        [before] = self._db.execute("SELECT max(value) FROM facts WHERE name = 'rules'").fetchone()
        if before == rules:
            return
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('rules', ?)", (rules,))
            self._db.execute(
                "INSERT OR IGNORE INTO changed SELECT DISTINCT conversation FROM events WHERE conversation != ''"
            )
            self._db.execute(
                "INSERT INTO touched SELECT DISTINCT customer, ?, ? FROM events WHERE conversation = ''",
                (_BEGINNING, _END),
            )

    def _add(self, event: Event, counts: Counter[str]) -> None:
        name, kind = event["conversation_id"], event["kind"]
        customer = "" if name else event.get("customer_id", "")
        turn = event["suggestion"]["turn"] if kind == SUGGESTION else _TOMBSTONE if kind == ERASED else _OTHER
        at = happened(event, _BEGINNING) if "at" in event else event["time"]
        identity = blake2b(event["event_id"].encode(), digest_size=16).digest()
        body = zlib.compress(json.dumps(self._shape(event), separators=(",", ":"), sort_keys=True).encode(), 1)
        row = (identity, name, customer, turn, event["time"], at, body)
        if not self._db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row).rowcount:
            counts[TWICE] += 1
            select = "SELECT conversation, customer, at FROM events WHERE id = ? AND (time, body) > (?, ?)"
            later = self._db.execute(select, (identity, event["time"], body)).fetchone()
            if later is None:
                return
            self._db.execute("DELETE FROM events WHERE id = ?", (identity,))
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._note(*later)
        self._note(name, customer, at)

    def _note(self, name: str, customer: str, at: float) -> None:
        if name:
            self._db.execute("INSERT OR IGNORE INTO changed VALUES (?)", (name,))
        elif customer:
            self._db.execute("INSERT INTO touched VALUES (?, ?, ?)", (customer, at, at))

    def _some(self, sql: str) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, (_BATCH,)).fetchall()

    def _siblings(self, customer: str, low: float, high: float) -> list[tuple[Any, ...]]:
        select = "SELECT name FROM conversations WHERE customer != '' AND customer = ? AND began <= ? AND last >= ?"
        return self._db.execute(select, (customer, high, low - self._rules.window)).fetchall()

    def _refold(self, name: str, counts: Counter[str]) -> None:
        self._touch(name)
        self._db.execute("DELETE FROM conversations WHERE name = ?", (name,))
        self._db.execute("DELETE FROM answers WHERE conversation = ?", (name,))
        live = self.conversation(name, counts)
        if live is None:
            return
        course = live.course
        statements = json.dumps([[each.time, each.at, each.outcome] for each in live.statements])
        whose = live.content.customer_id, live.digest, live.persona
        facts = (*whose, course.began, course.last, course.closed, statements)
        flags = (live.handed, live.accepted, live.abstained, live.complaint)
        marks = ", ".join("?" * (1 + len(facts) + len(flags)))
        self._db.execute(f"INSERT INTO conversations VALUES ({marks}, 0, 0, 0, 0, 0)", (name, *facts, *flags))  # noqa: S608
        rounded = ((name, float(f"{seconds:.2g}")) for seconds in live.seconds)
        self._db.executemany("INSERT INTO answers VALUES (?, ?)", rounded)
        self._stand(name)
        self._touch(name)

    def _touch(self, name: str) -> None:
        """Notes that what is told of the conversation's customer may belong to another conversation now."""
        self._db.execute(
            "INSERT INTO touched SELECT customer, began, last + ? FROM conversations AS here WHERE name = ? AND "
            "EXISTS (SELECT 1 FROM events WHERE conversation = '' AND customer = here.customer)",
            (self._rules.window, name),
        )

    def _stand(self, name: str) -> None:
        select = "SELECT customer, began, last, closed, statements, complained FROM conversations WHERE name = ?"
        customer, began, last, closed, texts, complaint = self._db.execute(select, (name,)).fetchone()
        statements = [Statement(*each) for each in json.loads(texts)]
        for event in self._of_customer(customer, began, last, name) if customer else ():
            complaint = complaint or event["kind"] == COMPLAINT
            if event["kind"] == OUTCOME:
                statements.append(Statement(event["time"], happened(event, _BEGINNING), event["outcome"]))
        stands = standing(Course(began, last, closed), statements, self._rules)
        self._db.execute(
            "UPDATE conversations SET over_at = ?, known_at = ?, outcome = ?, outcome_at = ?, complaint = ? "
            "WHERE name = ?",
            (stands.over_at, stands.known_at, stands.outcome, stands.outcome_at, complaint, name),
        )

    def _of_customer(self, customer: str, began: float, last: float, name: str) -> Iterator[Event]:
        """What is told of a customer and belongs to this conversation: the latest one that began before, in whose
        window it is."""
        rows = self._db.execute(
            "SELECT body FROM events AS event WHERE conversation = '' AND customer = ? AND at BETWEEN ? AND ? AND NOT "
            "EXISTS (SELECT 1 FROM conversations WHERE customer != '' AND customer = ? AND began <= event.at "
            "AND (began, name) > (?, ?) AND last + ? >= event.at)",
            (customer, began, last + self._rules.window, customer, began, name, self._rules.window),
        )
        return (_read(*row) for row in rows)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise TryAgainError(f"{self._path} cannot be used: {error}", "Check the disk that holds it.") from error


def remove(path: Path) -> None:
    """Removes the file of a table."""
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        each.unlink(missing_ok=True)


def _opened(path: Path) -> sqlite3.Connection:
    """The file, made anew where it is damaged or of another format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        db = _connected(path)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "facts" in tables and db.execute("SELECT * FROM facts WHERE name = 'format'").fetchone() == _FORMAT:
            return db
        db.close()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        _log.warning("%s is damaged (%s) and is made anew", path, error)
    remove(path)
    db = _connected(path)
    db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    with db:
        db.execute("INSERT INTO facts VALUES (?, ?)", _FORMAT)
    return db


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    db.create_function("in_canary", 3, in_canary, deterministic=True)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")  # a crash of the machine may cost the file, which is a cache
    return db


def _read(body: bytes) -> Event:
    event: Event = json.loads(zlib.decompress(body))
    return event
