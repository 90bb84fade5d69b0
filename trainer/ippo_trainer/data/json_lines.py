"""Files of JSON lines that others wrote, read line by line: whatever a line holds, the next one is read, too."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from ippo_trainer.data.messages import show
from ippo_trainer.data.problems import ProblemError, Problems

LONGEST_LINE = 16 << 20
"""Bytes."""
Fail = Callable[[str, str], NoReturn]
"""Raises the problem of a line: what is wrong with it, and the remedy."""


def parse(data: bytes, fail: Fail, form: str) -> Any:
    """The value of a line.

    Args:
        data: of the line.
        fail: is called with what is wrong: no UTF-8, no JSON, NaN, a field twice in one object.
        form: what the line should be, for errors.
    """

    def refuse(constant: str) -> NoReturn:
        fail(f" holds {constant}", "Write null, or leave the field out.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            fail(f" has the field {show(twice)} twice in one object", "Keep one of them.")
        return fields

    try:
        return json.loads(data.decode("utf-8-sig").strip(), parse_constant=refuse, object_pairs_hook=unique)
    except UnicodeDecodeError:
        fail(" is not UTF-8", "Save the file as UTF-8.")
    except json.JSONDecodeError as error:
        fail(*_no_json(error, form))
    except RecursionError:
        fail(" is nested too deeply", form)
    except ValueError:  # what Python's own reader refuses beside what is no JSON
        fail(" holds a whole number of thousands of digits", "Write ids as texts.")


def _no_json(error: json.JSONDecodeError, form: str) -> tuple[str, str]:
    """What is wrong with a line, and the remedy: of what exporters often do, else in the words of the parser."""
    rest = error.doc[error.pos :].strip()
    if error.msg == "Extra data" and rest == ",":
        return " is not JSON: it ends with a comma", "Write nothing behind the object."
    if error.msg == "Extra data" and rest.lstrip(", ").startswith(("{", "[")):
        return " is not JSON: it holds several objects", "Begin a line with each of them."
    if error.msg.startswith("Expecting property name") and rest.startswith("'"):
        return " is not JSON: it has single quotes", "Write it as JSON: with json.dumps in Python."
    if not rest or error.msg.startswith("Unterminated string"):
        return " is not JSON: it ends in the midst of an object", "Write each object on one line, to its end."
    return f" is not JSON at character {error.pos + 1}: {error.msg}", form


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name says that it is packed."""
    with path.open("rb") as raw:
        yield gzip.GzipFile(fileobj=raw) if path.name.lower().endswith(".gz") else raw  # type: ignore[misc]


def lines(file: IO[bytes], longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The lines of a file, each in memory for itself. Raises ValueError where one is longer than `longest` bytes."""
    while data := file.readline(longest + 1):
        if len(data) > longest:
            raise ValueError(f"a line is longer than {longest >> 20} MiB")
        yield data


UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
"""What reading a file raises that is damaged, or no text."""


def values(path: Path, problems: Problems, form: str, unit: str = "line") -> Iterator[tuple[int, Any]]:
    """Numbered values of the lines that are not blank; what is wrong is added to `problems`.

    Args:
        path: of the file.
        problems: of the file.
        form: what a line should be, for errors.
        unit: what a line is called in errors.
    """
    number = 0
    try:
        with opened(path) as file:
            for number, data in enumerate(lines(file), 1):
                if data.strip():
                    with problems.collecting():
                        yield number, parse(data, _failing(path.name, f"{unit} {number}"), form)
    except UNREADABLE as error:
        why = " ".join(str(error).split())[:200]
        problems.add(ProblemError(path.name, f"{unit} {number + 1}", f" cannot be read: {why}", form))


def _failing(file: str, place: str) -> Fail:
    def fail(what: str, remedy: str) -> NoReturn:
        raise ProblemError(file, place, what, remedy)

    return fail
