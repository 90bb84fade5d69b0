"""Logs in encodings, shapes and sizes that nobody named, with what is to be said of each: what is wrong or odd, how
often, where first, and what to do about it."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Table = Callable[[], pa.Table]


@dataclass(frozen=True)
class Odd:
    """A log, and what has to be said of it by whoever reads it."""

    body: str | bytes | Table
    what: str
    remedy: str
    count: int = 1
    first: str = ""
    """The first place; empty where it is of the whole file."""
    name: str = "log.jsonl"
    orders: str | bytes = ""
    """The file of outcomes, if there is one."""
    wrong: bool = True
    """False where it can be read, and is worth a look."""

    def write(self, folder: Path) -> tuple[Path, Path | None]:
        """The log, and the file of outcomes if there is one."""
        log, orders = folder / self.name, folder / "orders.csv"
        if callable(self.body):
            pq.write_table(self.body(), log)
        else:
            log.write_bytes(_bytes(self.body))
        if not self.orders:
            return log, None
        orders.write_bytes(_bytes(self.orders))
        return log, orders


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def chat(number: int, **fields: Any) -> dict[str, Any]:
    """A conversation like any other."""
    said = [("user", f"tea {'abc'[number % 3]}?"), ("assistant", ("yes", "no", "maybe")[number % 3])]
    line = {"conversation_id": f"c{number}", "messages": messages(*said), "outcome": number % 2 == 0}
    return {**line, **fields}


def messages(*said: tuple[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Of roles and contents."""
    return [{"role": role, "content": content, **fields} for role, content in said]


def lines(*rows: Any) -> str:
    """Each on a line; what is a text already stays as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


GOOD = [chat(number) for number in range(12)]
OPEN = lines(*({**each, "outcome": None} for each in GOOD))


def after_good(*rows: Any) -> str:
    """A good log, and what comes behind it."""
    return lines(*GOOD, *rows)


def _packed(name: str) -> bytes:
    """A good log in an archive of this kind."""
    body, target = after_good().encode(), io.BytesIO()
    if name == "zip":
        zipfile.ZipFile(target, "w").close()
    else:
        with tarfile.open(fileobj=target, mode="w") as archive:
            entry = tarfile.TarInfo("log.jsonl")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return target.getvalue()


def _cut_gzip() -> bytes:
    return gzip.compress(after_good().encode())[:-12]


def _rows(**columns: Any) -> Table:
    """Of one turn each."""
    said = {"customer_message": ["tea?"] * 12, "suggestion": ["yes", "no", "well"] * 4, "sent_message": ["yes"] * 12}
    ids = {"conversation_id": [f"c{n}" for n in range(12)], "turn": pa.array([0] * 12, pa.int32())}
    ends = {"reaction": ["edited"] * 12, "final_outcome": [n % 2 == 0 for n in range(12)]}
    return lambda: pa.table({**ids, **said, **ends, **columns})


def _chats(**columns: Any) -> Table:
    """Of one conversation each."""
    return lambda: pa.table({**{name: [each[name] for each in GOOD] for name in GOOD[0]}, **columns})


def _timed(*times: Any) -> str:
    def at(each: dict[str, Any]) -> dict[str, Any]:
        said = [{**message, "time": time} for message, time in zip(each["messages"], times, strict=True)]
        return {**each, "messages": said}

    return lines(*map(at, GOOD))


def _image(number: int) -> dict[str, Any]:
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    return chat(number, messages=messages(("user", picture), ("assistant", "nice")))


_DEEP = json.loads('{"a":' * 40 + "1" + "}" * 40)
_FORMAT = "One JSON object per line"
_NO_ZONE = "no zone, and are taken as UTC"
_BOOL = "Use true, false, or null"
_BYTES_OF_LATIN = lines(chat(20, note="é"), chat(21, note="é")).encode("latin-1")

ODD: dict[str, Odd] = {
    "two lines in latin-1": Odd(
        after_good().encode() + _BYTES_OF_LATIN, "is not UTF-8", "Save the file as UTF-8", 2, "line 13"
    ),
    "utf-16": Odd(after_good().encode("utf-16"), "looks like UTF-16", "Save the log as UTF-8", 1, "line 1"),
    "a carriage return alone in the midst": Odd(
        after_good(json.dumps(chat(20)) + "\r" + json.dumps(chat(21))),
        "it holds several objects",
        "Begin a line with each of them",
        1,
        "line 13",
    ),
    "NaN": Odd(after_good(*['{"outcome": NaN, "messages": []}'] * 3), "holds NaN", "Write null", 3, "line 13"),
    "an id of thousands of digits": Odd(
        after_good('{"conversation_id": ' + "9" * 5000 + ', "messages": []}'),
        "holds a whole number of thousands of digits",
        "Write ids as texts",
        1,
        "line 13",
    ),
    "ids with a point": Odd(
        after_good(chat(1, conversation_id=1.0), chat(2, conversation_id=2.0)),
        "conversation_id is 1.0",
        "Give each a unique text",
        2,
        "line 13",
    ),
    "outcomes as words": Odd(after_good(*[chat(n, outcome="won") for n in (20, 21)]), '"won"', _BOOL, 2, "line 13"),
    "outcomes as numbers": Odd(
        after_good(*[chat(n, outcome=1) for n in (20, 21)]), "outcome is 1", _BOOL, 2, "line 13"
    ),
    "roles nobody named": Odd(
        after_good(*[chat(n, messages=messages(("visitor", "hi"), ("bot", "yes"))) for n in (20, 21, 22)]),
        'messages[0].role is "visitor"',
        "Use one of user, customer",
        3,
        "line 13",
    ),
    "images alone": Odd(
        after_good(_image(20), _image(21)),
        "messages[0].content has parts, and no text among them",
        "Say in words what an image shows",
        2,
        "line 13",
    ),
    "contents that are objects": Odd(
        after_good(*[chat(n, messages=messages(("user", {"text": "abcd"[n % 4]}))) for n in range(20, 24)]),
        "messages[0].content is an object",
        "It must be a text",
        4,
        "line 13",
    ),
    "messages by number": Odd(
        after_good(chat(20, messages={"0": {"role": "user", "content": "hi"}})),
        "messages is an object, and no list",
        "Write them as a list",
        1,
        "line 13",
    ),
    "messages that are null": Odd(
        after_good(chat(20, messages=None)), "messages is null, and no list", "Write them as a list", 1, "line 13"
    ),
    "nested too deeply": Odd(
        after_good('{"messages": ' + "[" * 100_000), "is nested too deeply", _FORMAT, 1, "line 13"
    ),
    "a line of 17 MiB": Odd(
        after_good('{"note": "' + "x" * (17 << 20) + '"}'), "is longer than 16 MiB", _FORMAT, 1, "line 13"
    ),
    "a context that is large": Odd(
        after_good(*[chat(n, context="x" * 300_000) for n in (20, 21)]),
        "context has 300,000 bytes, more than 262,144",
        "Give what the agent needs",
        2,
        "line 13",
    ),
    "a context that is deep": Odd(
        after_good(chat(20, context=_DEEP)), "context is nested more than 16 deep", "Give a flatter value", 1, "line 13"
    ),
    "a gzip that is cut": Odd(
        _cut_gzip(), "before the file is damaged", "Compress the log with gzip again", 1, "line 11", "log.jsonl.gz"
    ),
    "an empty zip": Odd(_packed("zip"), "is a zip archive", "Unpack it", 1, "line 1"),
    "a tar in a gzip": Odd(gzip.compress(_packed("tar")), "is a tar archive", "Unpack it", 1, "line 1", "log.jsonl.gz"),
    "bzip2": Odd(bz2.compress(OPEN.encode()), "is packed, but not with gzip", "pack it with gzip", 1, "line 1"),
    "xz": Odd(lzma.compress(OPEN.encode()), "is packed, but not with gzip", "pack it with gzip", 1, "line 1"),
    "a database": Odd(b"SQLite format 3\0" + bytes(99), "is binary, and no text", "Export the log again", 1, "line 1"),
    "a PDF": Odd(b"%PDF-1.4\n%\xe2\xe3\n", "is a PDF", "Export the log again", 1, "line 1"),
    "an array that is cut": Odd(
        json.dumps(GOOD)[:-30], "the last item has no end", "Write one JSON array", 1, "item 12", "log.json"
    ),
    "an object in place of an array": Odd(
        json.dumps({"chats": GOOD}), "does not begin with [ but '{'", "or one line each", 1, "item 1", "log.json"
    ),
    "nothing that anybody answered": Odd(
        lines(*[{"messages": messages(("user", "hi"))}] * 4),
        "left out are 4 conversations without a reply",
        _FORMAT,
    ),
    "parquet that is cut": Odd(
        b"PAR1" + bytes(50), "is no readable Parquet file", "Fetch or make the file again", name="log.parquet"
    ),
    "parquet of orders": Odd(
        lambda: pa.table({"order": [1], "price": [2.0]}),
        "has no column 'conversation_id', 'turn'",
        "one for each conversation with a column messages",
        name="log.parquet",
    ),
    "parquet with messages as text": Odd(
        _chats(messages=[json.dumps(each["messages"]) for each in GOOD]),
        "messages is a text, and no list",
        "Write them as a list",
        12,
        "row 0",
        "log.parquet",
    ),
    "parquet with NaN for an outcome": Odd(
        _rows(final_outcome=[1.0, float("nan")] * 6), "is nan", "Only true or false", 6, "row 1", "log.parquet"
    ),
    "parquet with decimals for outcomes": Odd(
        _rows(final_outcome=[Decimal("1.0")] * 12),
        "holds decimal",
        "Write the column as bool",
        1,
        "row 0",
        "log.parquet",
    ),
    "parquet with a conversation torn apart": Odd(
        lambda: pa.concat_tables([_rows()(), _rows()().slice(0, 3)]),
        "comes a second time, after row 0 of log.parquet",
        "Keep a conversation's rows together",
        3,
        "row 12",
        "log.parquet",
    ),
    "parquet with times without a zone": Odd(
        _rows(started_at=[datetime(2026, 3, 1)] * 12),
        "has times without a zone, which are taken as UTC",
        "with a zone",
        1,
        "row 0",
        "log.parquet",
        wrong=False,
    ),
    "the same line twice": Odd(
        after_good(GOOD[0], GOOD[1]),
        "comes a second time, word for word",
        "Leave one of them out",
        2,
        "lines 1 and 13",
    ),
    "two outcomes of one conversation": Odd(
        after_good(chat(0, outcome=False), chat(2, outcome=False)),
        "word for word, but with outcome true, then false",
        "Keep the line that is right",
        2,
        "lines 1 and 13",
    ),
    "two conversations of one name": Odd(
        after_good(chat(0, messages=messages(("user", "a"), ("assistant", "b")))),
        "comes a second time with other messages",
        "Give each conversation an id of its own",
        1,
        "lines 1 and 13",
    ),
    "a join that matches nothing": Odd(
        OPEN,
        "no conversation_id of the log is in orders.csv: the log has 'c0', 'c1', 'c2', the file 'x-1', 'x-2'",
        "Write the same ids into both",
        orders="conversation_id,outcome\nx-1,true\nx-2,false\n",
    ),
    "a join with semicolons": Odd(
        OPEN,
        "has no column conversation_id",
        "Divide the columns by commas",
        orders="conversation_id;outcome\nc1;true\n",
    ),
    "a join in latin-1": Odd(
        OPEN,
        "is not UTF-8",
        "Save the file as UTF-8",
        2,
        "line 3",
        orders="conversation_id\nc1\né\nö\n".encode("latin-1"),
    ),
    "a join that contradicts itself": Odd(
        OPEN,
        "is true, then false",
        "Keep the row that is right",
        2,
        "rows 2 and 3",
        orders="conversation_id,outcome\nc1,1\nc1,0\nc2,1\nc2,0\n",
    ),
    "a join that contradicts the log": Odd(
        after_good(),
        "is true, and orders.csv, row 2, says false",
        "mend one of the two",
        6,
        "line 1",
        orders="conversation_id,outcome\n" + "".join(f"c{n},false\n" for n in range(0, 12, 2)),
    ),
    "outcomes before their conversations": Odd(
        _timed("2026-03-02T10:00:00Z", "2026-03-02T10:01:00Z").replace("true", "null").replace("false", "null"),
        "all 12 conversations of log.jsonl began after their outcome",
        "Check the times of both files",
        orders="conversation_id,time\n" + "".join(f"c{n},2020-01-01T00:00Z\n" for n in range(12)),
    ),
    "one class": Odd(
        lines(*[chat(n, outcome=True) for n in range(12)]),
        "every finished conversation has the outcome (12 of them)",
        "There is nothing to learn from one class",
        wrong=False,
    ),
    "outcomes under another name": Odd(
        lines(*[{**each, "outcome": None, "label": 1} for each in GOOD]),
        "so all are open; nobody reads its fields label",
        "Write outcome, true or false",
        wrong=False,
    ),
    "roles swapped": Odd(
        lines(
            *[
                chat(n, messages=messages(("agent", "a"), ("user", "b"), ("agent", "c"), ("user", "d")))
                for n in range(9)
            ]
        ),
        "begins with the business and ends with the customer",
        "the roles are swapped",
        wrong=False,
    ),
    "seconds, then milliseconds of a day before": Odd(
        _timed(1_774_000_000, 1_773_900_000_000), "its time goes backwards", "Check order", 12, "line 1", wrong=False
    ),
    "a year that is far": Odd(
        _timed("2026-03-01T10:00Z", "2999-01-01T00:00Z"), "is in the future", "Check units", 12, "line 1", wrong=False
    ),
    "days without a zone": Odd(_timed("2026-03-01", "2026-03-02"), _NO_ZONE, "with a zone", 12, "line 1", wrong=False),
    "days as one writes them in one place": Odd(
        _timed("03/05/2026", "03/06/2026"), "neither ISO 8601 nor seconds", "ISO 8601", 24, "line 1", wrong=False
    ),
}
