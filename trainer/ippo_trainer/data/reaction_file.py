"""What became of suggestions, in a file of its own: JSON lines that name a suggestion by its id, or by conversation and
turn.

    {"id": "chatcmpl-4f…", "reaction": "edited", "sent": "Ten for you.", "time": "2026-11-27T08:00:00Z"}
    {"conversation_id": "c1", "turn": 0, "reaction": "rejected"}
    {"conversation_id": "c1", "outcome": true}

Rows without a reaction are outcomes, which `data.outcomes` reads: both may be in one file.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.messages import is_text, show, time_of
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.reactions import REACTIONS, Reaction
from ippo_trainer.data.spelling import misspelt

_FIELDS = ("id", "choice", "conversation_id", "turn", "reaction", "sent", "displayed", "outcome", "time")
_FORMAT = 'Write {"id", "reaction"}, or {"conversation_id", "turn", "reaction"}, one object a line, as .jsonl.'
_ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson")
_NAMED = 3
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ReactionRow:
    """What the business did with a suggestion."""

    reaction: Reaction
    sent: str | None
    """What the customer got; None where the row does not say."""
    displayed: bool
    time: float | None
    """When it was sent."""
    place: int


class Reactions:
    """The rows of a file. Its memory grows with their number.

    Args:
        path: of the file.

    Raises:
        BadDataError: all that is wrong with it: no such file, another format, neither an id nor conversation and turn,
            an unknown reaction, rows of one suggestion that contradict each other, no reaction at all.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadDataError(f"there is no file of reactions {path}", "Check collect.history.reactions.")
        if not path.name.lower().endswith(_ENDINGS):
            raise BadDataError(f"{path.name} is no file of reactions that can be read", _FORMAT)
        self.path = path
        self.matches = 0
        """Rows that a suggestion was met for."""
        self._unmatched: list[str] = []
        self._by_id: dict[_Key, ReactionRow] = {}
        self._by_turn: dict[_Key, ReactionRow] = {}
        self._read()

    def of(self, record: dict[str, Any]) -> ReactionRow | None:
        """The row of a suggestion, a line of the servers' log; None where there is none."""
        identifier = record["id"]
        row = self._by_id.get((identifier, record["choice"]))
        row = row or self._by_turn.get((record["conversation_id"], record["turn"]))
        if row is not None:
            self.matches += 1
        elif len(self._unmatched) < _NAMED:
            self._unmatched.append(identifier)
        return row

    def check(self) -> None:
        """Raises BadDataError if no suggestion had a row."""
        if not self.matches:
            ours = ", ".join(map(repr, self._unmatched))
            theirs = ", ".join(repr(name) for name, _ in [*self._by_id, *self._by_turn][:_NAMED])
            raise BadDataError(
                f"no suggestion of the log is in {self.path.name}: the log has {ours or 'none'}, the file {theirs}",
                "Write the ids of the answers, or conversation_id and turn.",
            )

    def _read(self) -> None:
        problems = Problems(self.path.name)
        opener: Any = gzip.open if self.path.name.endswith(".gz") else open
        try:
            with opener(self.path, "rt", encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        with problems.collecting():
                            self._take(number, json.loads(line))
        except (OSError, EOFError, ValueError, RecursionError) as error:
            why = " ".join(str(error).split())[:200]
            problems.add(BadDataError(f"{self.path.name} cannot be read to its end: {why}", _FORMAT))
        problems.check()
        if not self._by_id and not self._by_turn:
            raise BadDataError(f"{self.path.name} has no reactions", _FORMAT)

    def _take(self, number: int, value: Any) -> None:
        def fail(what: str, remedy: str) -> ProblemError:
            return ProblemError(self.path.name, f"line {number}", what, remedy)

        if not isinstance(value, dict):
            raise fail(" is no object", _FORMAT)
        for unknown, near in misspelt(map(str, value), _FIELDS).items():
            raise fail(f": unknown field {show(unknown)}", f"Rename it to {near}, or leave it out.")
        if "reaction" not in value:
            if "outcome" not in value:
                raise fail(" has neither a reaction nor an outcome", _FORMAT)
            return
        if value["reaction"] not in REACTIONS:
            raise fail(f": reaction is {show(value['reaction'])}", f"Use one of {', '.join(REACTIONS)}.")
        sent, displayed = value.get("sent"), value.get("displayed", True)
        if sent is not None and not (isinstance(sent, str) and is_text(sent)):
            raise fail(f": sent is {show(sent)}", "Use the text that the customer got, or leave it out.")
        if not isinstance(displayed, bool):
            raise fail(f": displayed is {show(displayed)}", "Use true or false.")
        row = ReactionRow(value["reaction"], sent, displayed, time_of(value), number)
        rows, key = self._key(value, fail)
        before = rows.setdefault(key, row)
        if (before.reaction, before.sent) != (row.reaction, row.sent):
            raise fail(f": suggestion {key[0]!r:.100} contradicts line {before.place}", "Keep the line that is right.")

    def _key(self, value: dict[str, Any], fail: Any) -> tuple[dict[_Key, ReactionRow], _Key]:
        identifier, choice = value.get("id"), value.get("choice", 0)
        if isinstance(identifier, str) and identifier and type(choice) is int:
            return self._by_id, (identifier, choice)
        conversation, turn = value.get("conversation_id"), value.get("turn")
        if isinstance(conversation, str | int) and type(turn) is int and not isinstance(conversation, bool):
            return self._by_turn, (str(conversation), turn)
        raise fail(" names no suggestion", _FORMAT)
