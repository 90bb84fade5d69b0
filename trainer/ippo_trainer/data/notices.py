"""What is worth a look in a log that can be read: nothing is wrong, and yet a run may come to nothing."""

from itertools import pairwise
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.messages import GREETINGS, UNANSWERED
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import Conversation

LEAST_FINISHED = 10
"""Conversations with a known end that Q is fitted to, at least."""
_MOST_OF_ALL = 0.9
_ENOUGH, _HALF = 10, 0.5
"""Situations that come again, from which on their share says something; and the share."""
_NAMED = 6
_DAY = 86400.0


def of_order(reader: LogReader, conversation: Conversation) -> None:
    """Adds it to the reader's notices if the times of the conversation that was read last go backwards."""
    if any(later < earlier for earlier, later in pairwise(_times(conversation))):
        what, remedy = ": its time goes backwards", "Check order, units and zones."
        reader.notices.add(ProblemError(reader.path.name, reader.place, what, remedy))


def of_clock(notices: Problems, reader: LogReader, conversation: Conversation, now: float) -> None:
    """Adds it to `notices` if the conversation that was read last has times in the future.

    Args:
        now: seconds since 1970 UTC.
    """
    if max(_times(conversation), default=0.0) > now + _DAY:
        what, remedy = ": its time is in the future", "Check units and zones."
        notices.add(ProblemError(reader.path.name, reader.place, what, remedy))


def _times(conversation: Conversation) -> list[float]:
    return [time for turn in conversation.turns for time in (turn.started_at, turn.ended_at) if time > 0]


def of_log(notices: Problems, reader: LogReader, figures: dict[str, Any]) -> None:
    """Adds what the figures of the whole log say."""
    remarks = (*_of_outcomes(reader, figures), *_of_suggestions(figures), *_of_roles(reader), *_of_alike(reader))
    for what, remedy in remarks:
        notices.add(BadDataError(what, remedy))


def of_policy(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the figures of `evaluation.imitation`, as `survey` has notices."""
    texts = []
    if figures["perplexity"] is not None and figures["perplexity"] >= figures["byFrequency"]:
        texts.append(
            "the policy finds what the writers wrote no likelier than one who knows the frequencies of tokens alone. "
            "Train it longer (warmStart.epochs), take another policy.base, or name fewer writers."
        )
    if figures["states"] and figures["oneSuggestion"] > _HALF * figures["states"]:
        texts.append(
            f"in {figures['oneSuggestion']:,} of {figures['states']:,} states the policy says one thing only. "
            "An improvement has nothing to choose from there: imitate more writers, or let the policy explore."
        )
    return [{"count": 1, "places": [], "notice": text} for text in texts]


def _of_outcomes(reader: LogReader, figures: dict[str, Any]) -> list[tuple[str, str]]:
    won, lost = figures["outcomes"]["won"], figures["outcomes"]["lost"]
    finished = won + lost
    if not finished:
        unread = ", ".join(name for name, _ in reader.unread.most_common(_NAMED))
        others = f"; nobody reads its fields {unread}" if unread else ""
        return [
            (
                f"no conversation has an outcome, so all are open{others}",
                "Write outcome, true or false, into the log, or give a file of outcomes.",
            )
        ]
    notices = []
    if not won or not lost:
        notices.append(
            (
                f"{'every' if won else 'no'} finished conversation has the outcome ({finished:,} of them)",
                "There is nothing to learn from one class: check how the log says outcome, and what it leaves out.",
            )
        )
    if finished < LEAST_FINISHED:
        notices.append((f"{finished} conversations are finished, and Q needs {LEAST_FINISHED}", "Log more of them."))
    return notices


def _of_suggestions(figures: dict[str, Any]) -> list[tuple[str, str]]:
    remedy = "Q compares what was suggested in alike situations: log several writers, or let the policy explore."
    if figures["suggestions"]["different"] == 1 and figures["turns"] > 1:
        return [(f"all {figures['turns']:,} suggestions are the same", remedy)]
    situations = figures["situations"]
    if situations["again"] >= _ENOUGH and situations["turnsOfOne"] > _HALF * situations["turns"]:
        share = situations["turnsOfOne"] / situations["turns"]
        return [(f"in {share:.0%} of the turns whose situation comes again only one thing was ever suggested", remedy)]
    return []


def _of_roles(reader: LogReader) -> list[tuple[str, str]]:
    least = _MOST_OF_ALL * reader.count
    if not reader.count or min(reader.omissions[GREETINGS], reader.omissions[UNANSWERED]) < least:
        return []
    return [
        (
            "nearly every conversation begins with the business and ends with the customer",
            "If these are no greetings, the roles are swapped: user is the customer, assistant the business.",
        )
    ]


def _of_alike(reader: LogReader) -> list[tuple[str, str]]:
    if not reader.alike:
        return []
    what = f"{reader.alike:,} conversations without an id say the same as another one"
    return [(what, "If the log has them twice, leave one out; else they are well as they are.")]
