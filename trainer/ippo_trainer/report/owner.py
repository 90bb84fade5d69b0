"""The first section of the page: what the run means for the business, in plain words. All pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from ippo_trainer.contract.judgement import Judgement
from ippo_trainer.contract.stages import COLLECT, EVALUATE
from ippo_trainer.evaluation.groups import LEAST_CONVERSATIONS, LEAST_OUTCOMES, GroupValue
from ippo_trainer.report import words
from ippo_trainer.report.exploring import of_personas
from ippo_trainer.report.model import Cycle, Estimate, PolicyScore, RunReport
from ippo_trainer.report.parts import FigureTable

THOUSAND = 1000
ALIKE = 0.5
"""Texts that share so much of their words are of one kind (Jaccard's index)."""
MOST_TEXTS, MOST_KINDS, SHOWN_KINDS = 4000, 400, 5
LEAST_CHANGE = 0.01
"""Of a kind's share of all suggestions, to be told."""
SHOWN_PAIRS = 3
_WORD = re.compile(r"\w+")
_NOTHING = "(it says nothing)"


@dataclass(frozen=True)
class Kind:
    """Suggestions of about the same words: their share before and after, and one of them."""

    example: str
    before: float
    after: float


@dataclass(frozen=True)
class SideBySide:
    """A message, and what both policies suggest to it."""

    message: str
    before: str
    after: str


@dataclass(frozen=True)
class OwnerPage:
    """What the section shows."""

    sentences: Sequence[str]
    """One finding each, the most important first."""
    kinds: FigureTable | None = None
    """What the agent says more and less often."""
    kinds_note: str = ""
    pairs: Sequence[SideBySide] = ()
    groups: FigureTable | None = None
    groups_note: str = ""
    personas: FigureTable | None = None
    glossary: Sequence[tuple[str, str]] = field(default_factory=tuple)


def page(run: RunReport) -> OwnerPage | None:
    """The section; None of a run that has nothing to tell yet."""
    logged = words.judged_on_a_log(run)
    sentences = _logged(run, logged) if logged is not None else _measured(run)
    (groups, groups_note), personas = _groups(run), of_personas(run)
    if not sentences and groups is None and personas is None:
        return None
    before, after, note = _texts(run, logged)
    kinds = changed(before, after)
    rows = [[kind.example, words.percent(kind.before, 0), words.percent(kind.after, 0)] for kind in kinds]
    table = FigureTable(["the agent says, for example", "before", "now"], rows) if rows else None
    return OwnerPage(sentences, table, note, _pairs(logged), groups, groups_note, personas, _glossary(run))


def _measured(run: RunReport) -> list[str]:
    """What simulated customers did."""
    before, after = run.before, run.after
    if before is None or after is None:
        return []
    if not run.any_promoted:
        now = _per_thousand(before.best_success)
        return [
            f"The agent is the same as at the start: no candidate was clearly better. {now.capitalize()} of 1,000 "
            "conversations reach the outcome.",
            *_silence(before, None),
        ]
    old, new = before.best_success, after.best_success
    gain = THOUSAND * (new.estimate - old.estimate)
    worth = _worth(run, gain)
    text = (
        f"Of 1,000 conversations, {_per_thousand(new)} reach the outcome now; {_per_thousand(old)} did before. That is "
        f"{abs(gain):,.0f} {'more' if gain >= 0 else 'fewer'}{worth}."
    )
    return [text, *_silence(before, after), _accepted(before, after)]


def _per_thousand(estimate: Estimate) -> str:
    text = f"about {THOUSAND * estimate.estimate:,.0f}"
    if estimate.low is None or estimate.high is None:
        return text
    low, high = max(0.0, THOUSAND * estimate.low), THOUSAND * estimate.high
    return f"{text} (most likely {low:,.0f} to {high:,.0f})"


def _worth(run: RunReport, outcomes: float) -> str:
    """A clause about money; empty where the manifest says nothing of it."""
    value = run.setting("report.valuePerOutcome")
    if not isinstance(value, str):
        return ""
    unit = run.setting("report.currency")
    amount = f"{abs(outcomes) * float(value):,.0f}{f' {unit}' if isinstance(unit, str) else ''}"
    return f", worth {amount} {'more' if outcomes >= 0 else 'less'} (at {value} for an outcome)"


def _silence(before: PolicyScore, after: PolicyScore | None) -> list[str]:
    if before.abstention is None or (after is not None and after.abstention is None):
        return []
    was = words.percent(before.abstention.estimate, 0)
    if after is None or after.abstention is None:
        return [f"It suggests nothing in {was} of its turns."]
    return [f"It suggests nothing in {words.percent(after.abstention.estimate, 0)} of its turns; before, in {was}."]


def _accepted(before: PolicyScore, after: PolicyScore) -> str:
    if before.acceptance is None or after.acceptance is None:
        return ""
    was, now = (words.percent(each.acceptance.estimate, 0) for each in (before, after) if each.acceptance is not None)
    return f"Your people take {now} of its suggestions, as they are or edited; before, {was}."


def _logged(run: RunReport, cycle: Cycle) -> list[str]:
    """What a log can tell of a candidate that nobody has met."""
    collected, figures = cycle.metrics.get(COLLECT, {}), cycle.metrics.get(EVALUATE, {})
    sentences = []
    if "success" in collected and "conversations" in collected:
        per = THOUSAND * collected["success"]
        worth = _worth(run, per).replace(" more ", " ")
        sentences.append(
            f"In the log of {collected['conversations']:,.0f} conversations, {per:,.0f} of 1,000 reach the "
            f"outcome{worth}."
        )
    lift = [figures.get(f"offPolicyLift{end}") for end in ("", "Low", "High")]
    if all(each is not None for each in lift):
        middle, low, high = (THOUSAND * each for each in lift if each is not None)
        sure = "It is better by all that the log shows" if low > 0 else "The log cannot tell for sure"
        if high < 0:
            sure = "It is worse by what the log shows"
        sentences.append(
            f"{cycle.test or 'The new agent has met no customer yet.'} "
            f"By the log it should bring about {abs(middle):,.0f} "
            f"{'more' if middle >= 0 else 'fewer'} outcomes per 1,000 conversations, where late ones count less "
            f"({low:+,.0f} to {high:+,.0f}){_worth(run, middle)}. {sure}.".replace("-", "−")
        )
    compared = cycle.comparisons
    if compared is not None and compared.states:
        same = compared.identical / compared.states
        sentences.append(f"In {words.percent(same, 0)} of the situations it would say what it said before.")
        old, new = (count / compared.states for count in (compared.silent_current, compared.silent_candidate))
        sentences.append(f"It suggests nothing in {words.percent(new, 0)} of them; before, in {words.percent(old, 0)}.")
    votes = _judgement(run, cycle)
    if votes is not None:
        sentences.append(_votes(votes))
    return sentences


def _votes(votes: Judgement) -> str:
    preference = votes.preference()
    text = "People compared what both say, without knowing whose it was, and"
    if preference is None:
        return f"{text} preferred neither."
    share, low, high = preference
    same = f"; in {votes.same} it was as good" if votes.same else ""
    return (
        f"{text} preferred the new agent in {votes.candidate} of {votes.decided} situations ({share:.0%}; of many more "
        f"such situations most likely {low:.0%} to {high:.0%}){same}."
    )


def _judgement(run: RunReport, cycle: Cycle) -> Judgement | None:
    value = run.setting("promotion.judgement")
    if not isinstance(value, dict) or value.get("iteration") != cycle.iteration:
        return None
    try:
        return Judgement.model_validate(value)
    except ValidationError:  # of another version
        return None


def _texts(run: RunReport, logged: Cycle | None) -> tuple[list[str | None], list[str | None], str]:
    """Suggestions before and after, and of how many situations they are."""
    if logged is not None:
        if logged.comparisons is None:
            return [], [], ""
        pairs = logged.comparisons.pairs
        note = f"In {len(pairs)} situations of the log in which the two differ."
        return [pair.current for pair in pairs], [pair.candidate for pair in pairs], note
    shown = [cycle for cycle in run.evaluated if cycle.transcripts is not None]
    if not shown or not run.any_promoted:
        return [], [], ""
    first, last = (
        shown[0].transcripts,
        next((cycle.transcripts for cycle in reversed(shown) if run.promoted(cycle)), shown[-1].transcripts),
    )
    assert first is not None
    assert last is not None
    before = [turn.suggestion for each in first.current for turn in each.turns]
    after = [turn.suggestion for each in last.candidate for turn in each.turns]
    return before, after, f"In {len(first.current)} conversations before and {len(last.candidate)} now: a small sample."


def changed(before: Sequence[str | None], after: Sequence[str | None]) -> list[Kind]:
    """Kinds of suggestions whose share changed most, by the words that they share; no exact solution is needed.

    Args:
        before, after: suggestions of two policies; None says nothing.
    """
    before, after = before[:MOST_TEXTS], after[:MOST_TEXTS]
    if not before or not after:
        return []
    leaders: list[tuple[frozenset[str], str]] = []
    kinds: dict[str | None, int] = {}
    common = Counter([*before, *after])
    for text, _ in sorted(common.items(), key=lambda item: (-item[1], item[0] or "")):
        kinds[text] = _kind(text, leaders)
    counts = [Counter(kinds[text] for text in texts) for texts in (before, after)]
    changes = [
        Kind(example, counts[0][number] / len(before), counts[1][number] / len(after))
        for number, (_, example) in enumerate(leaders)
    ]
    changes = [kind for kind in changes if abs(kind.after - kind.before) >= LEAST_CHANGE]
    changes.sort(key=lambda kind: (-abs(kind.after - kind.before), kind.example))
    return sorted(changes[: 2 * SHOWN_KINDS], key=lambda kind: (kind.before - kind.after, kind.example))


def _kind(text: str | None, leaders: list[tuple[frozenset[str], str]]) -> int:
    """The number of the kind that a text is of; a new one if it is like none so far."""
    own = frozenset() if text is None else frozenset(_WORD.findall(text.casefold()))
    example = _NOTHING if text is None else words.clip(text, 160)
    best, likeness = len(leaders), ALIKE
    for number, (leader, name) in enumerate(leaders):
        if text is None or name == _NOTHING:
            like = 1.0 if example == name else 0.0
        else:
            like = len(own & leader) / len(own | leader) if own | leader else 1.0
        if like > likeness or (like == likeness and best == len(leaders)):
            best, likeness = number, like
    if best == len(leaders) and len(leaders) >= MOST_KINDS:
        return MOST_KINDS - 1
    if best == len(leaders):
        leaders.append((own, example))
    return best


def _pairs(logged: Cycle | None) -> list[SideBySide]:
    if logged is None or logged.comparisons is None:
        return []
    return [
        SideBySide(
            words.clip(pair.message, 400),
            words.clip(_NOTHING if pair.current is None else pair.current, 400),
            words.clip(_NOTHING if pair.candidate is None else pair.candidate, 400),
        )
        for pair in logged.comparisons.pairs[:SHOWN_PAIRS]
    ]


def _groups(run: RunReport) -> tuple[FigureTable | None, str]:
    """Outcomes of the log by its column `group`, what they would be with the candidate, and a sentence about it."""
    cycle = next((cycle for cycle in reversed(run.trained) if cycle.groups), None)
    if cycle is None:
        return None, ""
    values = cycle.group_values.groups if cycle.group_values is not None else {}
    head, rows = ["group", "conversations", "outcomes per 1,000"], []
    for name, (conversations, finished, won) in sorted(cycle.groups.items(), key=lambda item: -item[1][0]):
        per = f"{THOUSAND * won / finished:,.0f}" if finished else "–"
        rows.append([name, f"{conversations:,}", per, *([_change(values.get(name))] if values else [])])
    if not values:
        return FigureTable(head, rows), ""
    note = (
        "The last column is what the new agent should change, by the held-out conversations of each group alone, where "
        "late outcomes count less. It is given where there are at least "
        f"{LEAST_CONVERSATIONS} of them, {LEAST_OUTCOMES} with the outcome."
    )
    return FigureTable([*head, "change with the new agent"], rows), note


def _change(value: GroupValue | None) -> str:
    if value is None or value.lift is None:
        counts = f" ({value.conversations:,} held out, {value.outcomes:,} with the outcome)" if value else ""
        return f"too few to tell{counts}"
    middle, low, high = (f"{THOUSAND * each:+,.0f}" for each in value.lift)
    return f"{middle} ({low} to {high})".replace("-", "−")


def _glossary(run: RunReport) -> list[tuple[str, str]]:
    discount = run.setting("discount")
    late = f"with each turn that it takes longer it counts {100 * (1 - float(discount)):.3g}% less" if discount else ""
    return [
        (
            "Outcome",
            "what the conversation is for: a sale, a booking, a solved case, as the log or the simulator says.",
        ),
        ("Value", f"an outcome counts 1 if it comes at once{'; ' + late if late else ''}. No outcome counts 0."),
        ("Q", "the part of the system that learnt from outcomes which suggestion leads where."),
        (
            "Nats",
            "how far the new agent went from the one before: at 0 it says the same with the same odds, at 1 what it "
            "says is typically some three times as likely as before.",
        ),
        ("Interval", "where the true figure is in 95 of 100 such runs, as far as chance is concerned."),
    ]
