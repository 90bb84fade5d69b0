"""All problems of a log in one bounded error: each kind of problem with a count and its first places."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from ippo_trainer.contract.errors import BadDataError

MAX_KINDS = 5
"""Kinds of problems that an answer spells out."""
_MAX_PLACES = 4
_MOST_KINDS = 1000
_MAX_TEXT = 200
# What differs between two problems of one kind: numbers, and the names of conversations.
_VARYING = re.compile(r"""\d+|(?<=conversation )(?:'[^']*'|"[^"]*")|(?<=conversation_id )(?:'[^']*'|"[^"]*")""")


class ProblemError(BadDataError):
    """One problem of a log.

    Args:
        file: its name.
        place: `line 3`, or `row 7`, or `lines 3 and 5`.
        what: what is wrong there, with the field; begins with a colon, a comma or a space.
        remedy: what the reader can do about it.
        count: how many places have it, the first of which is named.
    """

    def __init__(self, file: str, place: str, what: str, remedy: str = "", count: int = 1) -> None:
        self.place, self.what, self.count = place, what, count
        super().__init__(f"{file}, {place}{what}", remedy)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """Problems that differ only in places and numbers."""

    count: int
    places: list[str]
    """The first ones."""
    text: str
    """What is wrong, and the remedy."""

    def where(self) -> str:
        """Its first places, such as "line 3, 5, 9, 12, …"; empty where it is of no place."""
        first, *others = self.places or [""]
        unit = first.split()[0] if first else ""
        also = "".join(f", {place.removeprefix(f'{unit} ')}" for place in others)
        return first + also + (", …" if first and self.count > len(self.places) else "")

    def words(self) -> str:
        """In a sentence, with its count and first places."""
        times = f"{self.count} times: " if self.count > 1 else ""
        where = self.where()
        return f"{self.text} ({times if where else times[:-2]}{where})" if where or times else self.text


class Problems:
    """Collects the problems of a file. Its memory is bounded, however many there are."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._first: dict[str, BadDataError] = {}
        self._places: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._others = 0

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self._counts.values()) + self._others

    def state(self) -> dict[str, Any]:
        """For `restore`; JSON."""
        kinds = [
            {"kind": kind, "what": getattr(first, "what", None), "message": first.message, "remedy": first.remedy}
            | {"count": self._counts[kind], "places": self._places[kind]}
            for kind, first in self._first.items()
        ]
        return {"kinds": kinds, "others": self._others}

    @classmethod
    def restore(cls, file: str, state: Mapping[str, Any]) -> Self:
        """From `state`."""
        problems = cls(file)
        for each in state.get("kinds", ()):
            kind, places, what = each["kind"], each["places"], each["what"]
            problems._first[kind] = (
                BadDataError(each["message"], each["remedy"])
                if what is None
                else ProblemError(file, places[0], what, each["remedy"])
            )
            problems._counts[kind], problems._places[kind] = each["count"], list(places)
        problems._others = state.get("others", 0)
        return problems

    def add(self, problem: BadDataError) -> None:
        """Takes one; those that differ only in places and numbers are of one kind."""
        what = problem.what if isinstance(problem, ProblemError) else problem.message
        kind = _VARYING.sub("#", what)
        count = problem.count if isinstance(problem, ProblemError) else 1
        if kind not in self._first and len(self._first) == _MOST_KINDS:
            self._others += count
            return
        self._first.setdefault(kind, problem)
        self._counts[kind] = self._counts.get(kind, 0) + count
        places = self._places.setdefault(kind, [])
        if isinstance(problem, ProblemError) and len(places) < _MAX_PLACES and problem.place not in places:
            places.append(problem.place)

    def kinds(self) -> list[ProblemKind]:
        """All kinds, the most frequent one first."""
        ordered = sorted(self._first, key=lambda kind: -self._counts[kind])
        rest = [ProblemKind(self._others, [], "problems of other kinds")] if self._others else []
        return [ProblemKind(self._counts[kind], self._places[kind], self._text(kind)) for kind in ordered] + rest

    def _text(self, kind: str) -> str:
        first = self._first[kind]
        what = first.what.lstrip(":, ") if isinstance(first, ProblemError) else first.message
        return f"{_short(what)}. {_short(first.remedy)}".strip()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """What is wrong inside is added and not raised."""
        try:
            yield
        except BadDataError as problem:
            self.add(problem)

    def check(self) -> None:
        """Raises what there is: one problem as it is, several in one BadDataError."""
        if not self._counts:
            return
        total = self.total
        kinds = sorted(self._first, key=lambda kind: -self._counts[kind])
        if total == 1:
            raise self._first[kinds[0]]
        texts = [self._say(kind) for kind in kinds[:MAX_KINDS]]
        rest = total - sum(self._counts[kind] for kind in kinds[:MAX_KINDS])
        if rest:
            texts.append(f"And {rest} of other kinds.")
        raise BadDataError(f"{self._file} has {total} problems. {' '.join(texts)}", "Mend them all, then start again.")

    def _say(self, kind: str) -> str:
        first, count, places = self._first[kind], self._counts[kind], self._places[kind]
        if not isinstance(first, ProblemError):
            return f"{_short(first.message)}. {_short(first.remedy)}".strip()
        unit = places[0].split()[0]
        more = ", ".join(place.removeprefix(f"{unit} ") for place in places[1:])
        also = f" ({count} times{f'; also {unit} {more}' if more else ''})" if count > 1 else ""
        return f"{first.place}{_short(first.what)}{also}. {_short(first.remedy)}".strip()


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
