"""What became of suggestions, in a file of its own: JSON lines that name a suggestion by its id, or by conversation and
turn.

    {"id": "chatcmpl-4f…", "reaction": "edited", "sent": "Ten for you.", "time": "2026-11-27T08:00:00Z"}
    {"conversation_id": "c1", "turn": 0, "reaction": "rejected"}
    {"conversation_id": "c1", "outcome": true}

Rows without a reaction are outcomes, which `data.outcomes` reads: both may be in one file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract import log_names
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.json_lines import values
from ippo_trainer.data.messages import ZONES, is_text, lacks_zone_in, show, time_of
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.reactions import REACTIONS, Reaction
from ippo_trainer.data.spelling import misspelt

_FIELDS = ("id", "choice", "conversation_id", "turn", "reaction", "sent", "displayed", "outcome", "time")
_FORMAT = 'Write {"id", "reaction"}, or {"conversation_id", "turn", "reaction"}, one object a line, as .jsonl.'
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
        if not path.name.lower().endswith(log_names.REACTIONS):
            raise BadDataError(f"{path.name} is no file of reactions that can be read", _FORMAT)
        self.path = path
        self.notices = Problems(path.name)
        """What is worth a look though nothing is wrong."""
        self._met: set[int] = set()
        """Places of the rows whose suggestions are in the log."""
        self._unmatched: list[str] = []
        self._by_id: dict[_Key, ReactionRow] = {}
        self._by_turn: dict[_Key, ReactionRow] = {}
        self._read()

    def of(self, record: dict[str, Any]) -> ReactionRow | None:
        """The row of a suggestion, a line of the servers' log; None where there is none."""
        identifier = record["id"]
        by_id = self._by_id.get((identifier, record["choice"]))
        by_turn = self._by_turn.get((record["conversation_id"], record["turn"]))
        self._met |= {row.place for row in (by_id, by_turn) if row is not None}
        row = by_id or by_turn
        if row is None and len(self._unmatched) < _NAMED:
            self._unmatched.append(identifier)
        return row

    def check(self) -> int:
        """How many of the rows are of no suggestion of the log. Raises BadDataError if all of them are."""
        if not self._met:
            ours = ", ".join(map(repr, self._unmatched))
            theirs = ", ".join(repr(name) for name, _ in [*self._by_id, *self._by_turn][:_NAMED])
            raise BadDataError(
                f"no suggestion of the log is in {self.path.name}: the log has {ours or 'none'}, the file {theirs}",
                "Write the ids of the answers, or conversation_id and turn.",
            )
        return len(self._by_id) + len(self._by_turn) - len(self._met)

    def _read(self) -> None:
        problems = Problems(self.path.name)
        for number, value in values(self.path, problems, _FORMAT):
            with problems.collecting():
                self._take(number, value)
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
        time = time_of(value)
        if time is None and value.get("time") is not None:
            raise fail(f": time is {show(value['time'])}", "Use ISO 8601, or seconds since 1970 UTC.")
        if lacks_zone_in(value):
            what = f": its time in {self.path.name} has no zone, and is taken as UTC"
            self.notices.add(ProblemError(self.path.name, f"line {number}", what, ZONES))
        row = ReactionRow(value["reaction"], sent, displayed, time, number)
        rows, key = self._key(value, fail)
        before = rows.setdefault(key, row)
        if (before.reaction, before.sent, before.displayed) != (row.reaction, row.sent, row.displayed):
            what = f": suggestion {key[0]!r:.100} is {before.reaction}, then {row.reaction}"
            if before.reaction == row.reaction:
                what = f": suggestion {key[0]!r:.100} is {row.reaction} twice, with another text or displayed"
            where = f"lines {before.place} and {number}"
            raise ProblemError(self.path.name, where, what, "Keep the line that is right.")

    def _key(self, value: dict[str, Any], fail: Any) -> tuple[dict[_Key, ReactionRow], _Key]:
        identifier, choice = value.get("id"), value.get("choice", 0)
        if isinstance(identifier, str) and identifier and type(choice) is int:
            return self._by_id, (identifier, choice)
        conversation, turn = value.get("conversation_id"), value.get("turn")
        if type(conversation) in (str, int) and type(turn) is int and turn >= 0:
            return self._by_turn, (str(conversation), turn)
        raise fail(" names no suggestion", _FORMAT)
