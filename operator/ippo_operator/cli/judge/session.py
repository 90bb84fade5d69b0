"""A session of `ippo judge`: states on the terminal, votes into a file, counts into the run."""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ippo_trainer.contract.judgement import Judgement
from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.stages import EVALUATE

from ippo_operator.api.status import IterationStatus, RunStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.judge.votes import Side, Vote, append_vote, order, read_votes, tally, verdict_of

if TYPE_CHECKING:
    from ippo_trainer.evaluation.comparisons import Comparisons, PairOfSuggestions
    from ippo_trainer.store.base import Store

_KEYS = "a, b, s the same, k skip, q quit: "
_NOTHING = "(suggests nothing)"


@dataclass(frozen=True)
class Evaluated:
    """What there is to judge of an iteration."""

    iteration: int
    digest: str
    """Of the evaluation."""
    comparisons: "Comparisons"

    @property
    def states(self) -> list[str]:
        """Names of the states to judge."""
        return [pair.name for pair in self.comparisons.pairs]


def evaluated(status: RunStatus, iteration: int | None, store: "Store") -> Evaluated:
    """The states of an iteration's evaluation.

    Raises:
        CommandError: no such iteration, or one whose evaluation has no states to judge.
        StageError: the store cannot be read.
    """
    row = _row(status, iteration)
    reference = row.artifact(EVALUATE)
    if reference is None:
        raise CommandError(f"iteration {row.iteration} has not been evaluated yet")
    from ippo_trainer.contract.layout import COMPARISONS
    from ippo_trainer.evaluation.comparisons import Comparisons
    from ippo_trainer.store.artifact import read_manifest

    files = {file.path for file in read_manifest(store, reference).files}
    if COMPARISONS not in files:
        raise CommandError(
            f"the evaluation of iteration {row.iteration} holds no suggestions to judge: it talked to simulated "
            "customers, or an earlier release made it"
        )
    comparisons = Comparisons.model_validate_json(store.read(f"{reference.key}/{COMPARISONS}"))
    if not comparisons.pairs:
        raise CommandError(f"candidate and current policy suggest the same in all {comparisons.states} states")
    return Evaluated(row.iteration, reference.digest, comparisons)


def _row(status: RunStatus, iteration: int | None) -> IterationStatus:
    rows = [row for row in status.iterations if row.decision is not None]
    if iteration is not None:
        rows = [row for row in rows if row.iteration == iteration]
    if not rows:
        what = "no iteration" if iteration is None else f"iteration {iteration}"
        raise CommandError(f"{what} of the run has been evaluated, as far as its status remembers")
    return rows[-1]


def judge(arguments: Namespace, subject: Evaluated, place: Path, ask: Callable[[str], str] = input) -> Judgement:
    """Asks, or reads the files of --votes; returns the count.

    Args:
        arguments: of the command.
        subject: what is judged.
        place: where votes are kept.
        ask: prints its argument and returns the answer.

    Raises:
        CommandError: votes that cannot be read, or no terminal to ask on.
    """
    if arguments.votes is not None:
        missing = [name for name in arguments.votes if not Path(name).is_file()]
        if missing:
            raise CommandError(f"--votes: there is no file {missing[0]}")
        votes = [vote for name in arguments.votes for vote in read_votes(Path(name), subject.digest)]
        return tally(subject.iteration, votes, subject.states)
    if ask is input and not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask on; give files of votes with --votes")
    votes = read_votes(place, subject.digest)
    votes += _session(arguments.judge, subject, place, {vote.state for vote in votes}, ask)
    return tally(subject.iteration, votes, subject.states)


def _session(judge: str, subject: Evaluated, place: Path, done: set[str], ask: Callable[[str], str]) -> list[Vote]:
    pairs, comparisons = subject.comparisons.pairs, subject.comparisons
    print(
        f"iteration {subject.iteration}: in {comparisons.identical} of {comparisons.states} states both policies "
        f"suggest the same; {len(pairs)} to judge, {len(done)} of them done"
    )
    votes: list[Vote] = []
    for number, pair in enumerate(pairs, 1):
        if pair.name in done:
            continue
        sides = order(subject.digest, judge, pair.name)
        print("\n".join(_shown(pair, sides, f"{number} of {len(pairs)}")))
        verdict = None
        while verdict is None:
            try:
                answer = ask(_KEYS)
            except EOFError:
                answer = "q"
            if answer.strip().lower() == "q":
                return votes
            verdict = verdict_of(answer, sides)
        vote = Vote(judge, pair.name, verdict)
        append_vote(place, vote, subject.digest)
        votes.append(vote)
    return votes


def _shown(pair: "PairOfSuggestions", sides: tuple[Side, Side], heading: str) -> list[str]:
    lines = ["", f"--- {heading} ---"]
    lines += _block("given", pair.context) if pair.context else []
    for exchange in pair.history:
        lines += [*_said(exchange.customer, exchange.tools), *_block("we", exchange.sent)]
    lines += [*_said(pair.message, pair.tools), ""]
    for letter, side in zip("AB", sides, strict=True):
        text = pair.candidate if side == "candidate" else pair.current
        lines += _block(letter, _NOTHING if text is None else text)
    return lines


def _said(message: str, tools: list[str]) -> list[str]:
    return [*_block("customer", message), *(line for tool in tools for line in _block("tool", tool))]


def _block(name: str, text: str) -> list[str]:
    """Text of customers and policies must not reach the terminal as it is."""
    first, *rest = [printable(line) for line in text.split("\n")] or [""]
    return [f"{name + ':':10}{first}", *(f"{'':10}{line}" for line in rest)]
