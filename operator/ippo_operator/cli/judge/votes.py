"""Votes on pairs of suggestions: in which order a pair is shown, how votes are kept and counted. Files apart, pure."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.judgement import Judgement

from ippo_operator.cli.errors import CommandError

Side = Literal["candidate", "current"]
Verdict = Literal["candidate", "current", "same", "skip"]
VERDICTS: tuple[Verdict, ...] = ("candidate", "current", "same", "skip")
SIDES: tuple[tuple[Side, Side], ...] = (("candidate", "current"), ("current", "candidate"))


@dataclass(frozen=True)
class Vote:
    """What one person said of one state."""

    judge: str
    state: str
    verdict: Verdict


def order(digest: str, judge: str, state: str) -> tuple[Side, Side]:
    """Whose suggestion is A and whose B, for a judge and a state of an evaluation: even odds, the same every time."""
    return SIDES[derive_seed(0, "judge", digest, judge, state) & 1]


def verdict_of(key: str, sides: tuple[Side, Side]) -> Verdict | None:
    """What an answer says; None where it says nothing that is known."""
    answers: dict[str, Verdict] = {"a": sides[0], "b": sides[1], "s": "same", "k": "skip"}
    return answers.get(key.strip().lower())


def read_votes(path: Path, digest: str) -> list[Vote]:
    """The votes in a file; none where there is no file.

    Args:
        path: of the file.
        digest: of the evaluation whose states they have to be of.

    Raises:
        CommandError: a line that is no vote, or one on another evaluation.
    """
    if not path.exists():
        return []
    votes = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            vote = Vote(str(value["judge"]), str(value["state"]), value["verdict"])
            evaluation = value["evaluation"]
        except (ValueError, KeyError, TypeError):
            raise CommandError(f"{path}, line {number} is no vote; take the line out") from None
        if vote.verdict not in VERDICTS:
            raise CommandError(f"{path}, line {number}: verdict is {vote.verdict!r}; allowed are {', '.join(VERDICTS)}")
        if evaluation != digest:
            raise CommandError(f"{path}, line {number} is a vote on another candidate ({str(evaluation)[:19]})")
        votes.append(vote)
    return votes


def append_vote(path: Path, vote: Vote, digest: str) -> None:
    """Keeps a vote, on disk before it returns."""
    value: dict[str, Any] = {"evaluation": digest, "judge": vote.judge, "state": vote.state, "verdict": vote.verdict}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def tally(iteration: int, votes: Iterable[Vote], states: Sequence[str]) -> Judgement:
    """Counts one verdict of each judge on each state, the last one; skipped states do not count.

    Where several people judged a state, it counts once, for whom most of them voted: votes on one state are not
    independent.

    Raises:
        CommandError: a vote on a state that is not among those that were compared.
    """
    compared, last = set(states), dict[tuple[str, str], Verdict]()
    for vote in votes:
        if vote.state not in compared:
            raise CommandError(f"there is no state {vote.state!r} among those of iteration {iteration}")
        last[vote.judge, vote.state] = vote.verdict
    balance: dict[str, int] = {}
    worth: Mapping[Verdict, int] = {"candidate": 1, "current": -1, "same": 0}
    for (_, state), verdict in last.items():
        if verdict != "skip":
            balance[state] = balance.get(state, 0) + worth[verdict]
    signs = [(value > 0) - (value < 0) for value in balance.values()]
    return Judgement(iteration=iteration, candidate=signs.count(1), current=signs.count(-1), same=signs.count(0))
