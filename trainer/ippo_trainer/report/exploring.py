"""What exploring by personas costs: outcomes with each of them and without, and how many fewer there were. All pure."""

from math import hypot

from ippo_trainer.contract.judgement import wilson
from ippo_trainer.contract.personas import NO_PERSONA
from ippo_trainer.data.counts import Ended
from ippo_trainer.report.model import RunReport
from ippo_trainer.report.parts import FigureTable

_THOUSAND = 1000


def of_personas(run: RunReport) -> FigureTable | None:
    """The latest conversations in which there were personas; None without any."""
    held = next((cycle.personas for cycle in reversed(run.trained) if cycle.personas), {})
    alone = held.get(NO_PERSONA)
    if alone is None:
        return None
    rows = [["the policy as it is", *_counted(alone), "–"]]
    rows += [[name, *_counted(each), _cost(alone, each)] for name, each in held.items() if name != NO_PERSONA]
    return FigureTable(["who suggested", "conversations", "outcomes per 1,000", "outcomes that it cost"], rows)


def _counted(ended: Ended) -> tuple[str, str]:
    success = ended.success
    return f"{ended.conversations:,}", "–" if success is None else f"{_THOUSAND * success:,.0f}"


def _cost(alone: Ended, persona: Ended) -> str:
    """Outcomes that the policy as it is would have had more in the persona's conversations, with a 95 % interval."""
    if not alone.conversations or not persona.conversations:
        return "–"
    middle, low, high = (persona.conversations * each for each in difference(alone, persona))
    return f"{middle:,.0f} ({low:+,.0f} to {high:+,.0f})".replace("-", "−")


def difference(one: Ended, other: Ended) -> tuple[float, float, float]:
    """Success of one less that of the other, and the bounds of its 95 % interval.

    From Wilson's intervals of both, by Newcombe (Statistics in Medicine 1998, method 10). Both have conversations.
    """
    (share, low, high), (share2, low2, high2) = (
        (each.outcomes / each.conversations, *wilson(each.outcomes, each.conversations)) for each in (one, other)
    )
    middle = share - share2
    return middle, middle - hypot(share - low, high2 - share2), middle + hypot(high - share, share2 - low2)
