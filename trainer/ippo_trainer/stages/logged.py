"""The logged conversations of the current policy, as fit-q, improve and evaluate read them: the same, split alike."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import CALIBRATION
from ippo_trainer.contract.params import FitQ
from ippo_trainer.contract.stages import EARLIER_DATA
from ippo_trainer.data.own import (
    all_own,
    before_outcome,
    by_policy,
    by_writers,
    foreign_as_explored,
    foreign_share,
    own_part,
    writer_of,
)
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.splits import split
from ippo_trainer.data.turns import read_turns
from ippo_trainer.stages.runtime import StageContext

_NAMED = 4


def read_logged(ctx: StageContext, fit_q: FitQ | None = None) -> list[Conversation]:
    """The input `data`, without turns after the outcome and without what another than the input `policy` said.

    Of a log, what `history.writers` wrote counts as the policy's own, since it imitates them.

    Args:
        ctx: of the stage.
        fit_q: settings whose `method` may take others' turns, too.

    Raises:
        BadSpecError: an input that is not named.
        BadDataError: unusable turns, none of them the policy's own, or more of others than `fitQ.maxForeign`.
    """
    everything = read_turns(sorted(ctx.input("data", "data").rglob("*.parquet")))
    digest, history = ctx.spec.inputs["policy"].digest, ctx.spec.history
    owns = by_policy(digest) if history is None else by_writers(history.writers)
    part = own_part(everything, owns)
    if not part.conversations and history is not None:
        present = Counter(writer_of(turn) for conversation in everything for turn in conversation.turns)
        names = ", ".join(f"{name!r:.80} ({count} turns)" for name, count in present.most_common(_NAMED))
        raise BadDataError(
            f"collect.history.writers began none of the {len(everything)} conversations; the log has {names}",
            "Name some of these, or leave writers out.",
        )
    if not part.conversations:
        raise BadDataError(
            f"none of the {len(everything)} conversations was held by the policy {digest[:19]}",
            "Collect with this policy; column 'policy_digest' says who suggested what.",
        )
    if fit_q is not None and fit_q.method in {"SARSA", "ExpectedSARSA"}:
        return all_own(everything) if fit_q.method == "SARSA" else foreign_as_explored(everything, owns)
    share, most = foreign_share(everything, owns), (fit_q.max_foreign if fit_q is not None else None) or "1"
    if share > float(most):
        raise BadDataError(
            f"{share:.1%} of the turns are other writers', more than fitQ.maxForeign {most}: Monte Carlo returns say "
            "little of the policy",
            "Set fitQ.method to ExpectedSARSA, raise maxForeign, or name more writers.",
        )
    other = "another policy" if history is None else "other writers"
    if part.others or part.handed_over:
        ctx.warn(
            f"{part.others} of {len(everything)} conversations were held by {other} and are left out; "
            f"{part.handed_over} changed hands and count as censored there"
        )
    return part.conversations


def read_earlier(ctx: StageContext, current: Sequence[Conversation]) -> list[list[Conversation]]:
    """The inputs `earlierData`, one list for each, without turns after the outcome and without customers of `current`,
    some of whom are held out."""
    units, logs = {_unit(each) for each in current}, []
    for name in EARLIER_DATA:
        if name in ctx.spec.inputs:
            everything = map(before_outcome, read_turns(sorted(ctx.input(name, "data").rglob("*.parquet"))))
            logs.append([each for each in everything if each.turns and _unit(each) not in units])
    return logs


def finished(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Those with a known end and a turn before it: what Q is fitted to and held out of."""
    return [each for each in conversations if each.turns and not each.censored]


@dataclass(frozen=True, slots=True)
class Separation:
    """What tells training from held-out conversations; every stage that is told the same splits alike."""

    holdout: float
    """Share of customers."""
    seed: int

    @staticmethod
    def of(calibration: Mapping[str, Any]) -> "Separation":
        """How the data of a Q were split."""
        return Separation(float(calibration["split"]["holdout"]), int(calibration["split"]["seed"]))

    def sides(self, conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
        """(training, held out), each in the order given; a customer is on one side, censored conversations too."""
        held = set(split([_unit(each) for each in finished(conversations)], self.holdout, self.seed)[1])
        sides: tuple[list[Conversation], list[Conversation]] = ([], [])
        for each in conversations:
            sides[_unit(each) in held].append(each)
        return sides


def read_calibration(q: Path) -> dict[str, Any]:
    """What fit-q wrote of a Q. Raises BadDataError where it does not say how the data were split."""
    try:
        content: dict[str, Any] = json.loads((q / CALIBRATION).read_text("utf-8"))
        Separation.of(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadDataError(
            f"{CALIBRATION} of Q does not say how its data were split ({type(error).__name__}: {error})",
            "Pass the artifact of a fit-q stage.",
        ) from error
    return content


def _unit(conversation: Conversation) -> str:
    """What a split keeps together: a customer's conversations, where it is known whose they are."""
    return conversation.customer_id or conversation.id
