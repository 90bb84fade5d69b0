"""What an answer for a candidate changes of a run's spec, and what is said about it, wherever the run is."""

from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.judgement import Judgement
from ippo_trainer.contract.stages import COLLECT

from ippo_operator.api.status import IterationStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.run_view import RunView, now
from ippo_operator.cli.status.customers import customer_lines
from ippo_operator.plan import approval


@dataclass(frozen=True)
class Change:
    """What to write, and what to say."""

    patch: dict[str, Any]
    """Of the spec."""
    path: str
    """The field that matters."""
    confirmation: str
    """What is printed afterwards."""
    question: str = ""
    """What is decided, printed before the change is written."""


def answer(run: RunView, iteration: int | None, approves: bool) -> Change:
    """What `ippo approve` or `reject` writes into a run's spec; no patch where it says so already.

    Args:
        run: in a cluster or in a folder.
        iteration: whose candidate; None: the one that waits.
        approves: or rejects.

    Raises:
        CommandError: nobody is asked, or the answer can have no effect.
    """
    promotion = run.spec.get("promotion") or {}
    waiting = approval.awaited(run.status)
    if promotion.get("mode") != "Manual" and (run.spec.get(COLLECT) or {}).get("simulate") is not None:
        raise CommandError(f"{run.name} promotes by itself: spec.promotion.mode is not Manual, so nobody is asked")
    if run.ended:
        raise CommandError(f"{run.name} has ended ({run.phase}); no candidate waits")
    if iteration is None and waiting is None:
        raise CommandError(
            f"no candidate of {run.name} waits for an answer ({run.message}); "
            "to answer ahead of time, name the iteration"
        )
    number = waiting.iteration if iteration is None and waiting is not None else int(iteration or 0)
    _check_open(run, number, waiting)
    yes, no = ("approve", "reject") if approves else ("reject", "approve")
    verb = "approved" if approves else "rejected"
    if promotion.get(yes) == number and promotion.get(no) != number:
        return Change({}, f"spec.promotion.{yes}", f"the candidate of iteration {number} is {verb} already")
    patch: dict[str, Any] = {yes: number}
    if promotion.get(no) == number:
        patch[no] = None
    here = waiting is not None and waiting.iteration == number
    confirmation = f"the candidate of iteration {number} is {verb}"
    if not here:
        confirmation += ", once it is there and the gate lets it pass"
    other = promotion.get(yes)
    if other is not None and other != number and other > _last_decided(run):
        confirmation += f"; the one for iteration {other}, given before, is gone: spec.promotion.{yes} holds one"
    if run.spec.get("suspend"):
        confirmation += f"; {run.name} is suspended, so that counts once it goes on: ippo resume {run.name}"
    question = "\n".join(_figures(run, waiting)) if here and waiting is not None else ""
    return Change({"promotion": patch}, f"spec.promotion.{yes}", confirmation, question)


def _check_open(run: RunView, number: int, waiting: IterationStatus | None) -> None:
    """Raises CommandError if an answer for that iteration can have no effect any more."""
    if number > run.limit:
        raise CommandError(f"{run.name} has {run.limit} iterations (spec.iterations.max); given {number}")
    if waiting is not None and number < waiting.iteration:
        raise CommandError(
            f"iteration {number} is decided; the candidate that waits is of iteration {waiting.iteration}"
        )
    if number <= _last_decided(run):
        raise CommandError(f"iteration {number} of {run.name} is decided already; an answer is final")


def _last_decided(run: RunView) -> int:
    """The latest iteration with an answer; all before it have one, also those that the history has forgotten."""
    return max((row.iteration for row in run.status.iterations if row.promoted is not None), default=0)


def _figures(run: RunView, waiting: IterationStatus) -> list[str]:
    metrics = waiting.metrics
    text = [f"the candidate of iteration {waiting.iteration}, beside the policy before it:"]
    for name, form in (("success", ".1%"), ("value", ".4f")):
        if name in metrics and f"{name}Current" in metrics:
            change = metrics[name] - metrics[f"{name}Current"]
            pair = f"{metrics[name]:{form}}  (before {metrics[f'{name}Current']:{form}}, {change:+{form}})"
            text.append(f"  {name:8} {pair}")
    if waiting.decision is not None:
        text.append(f"  the gate: {waiting.decision.reason}")
    if waiting.canary is not None:
        text += ["  its A/B test:", *(f"  {line}" for line in customer_lines(run.status, now()))]
    votes = (run.spec.get("promotion") or {}).get("judgement")
    if votes is not None and votes["iteration"] == waiting.iteration:
        text.append(f"  judged: {Judgement.model_validate(votes).in_words()}")
    return text
