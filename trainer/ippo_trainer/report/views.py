"""The run's behaviour for the template: progress, decisions, intent mix, lost value, conversations. All pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ippo_trainer.contract.stages import COLLECT, FIT_Q, IMPROVE
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.report import words
from ippo_trainer.report.bars import Stack, colours, loss_bars, stacked_bars
from ippo_trainer.report.charts import Axes, Plot, Point, ReferenceLine, Series, line_chart, number_tick, percent_tick
from ippo_trainer.report.model import (
    Cycle,
    Estimate,
    LossRow,
    PolicyScore,
    Reference,
    RunReport,
    Transcript,
    TranscriptTurn,
)
from ippo_trainer.report.parts import HALF, NARROW, WHOLE, Figure, FigureTable, figure
from ippo_trainer.report.svg import evenly, integer_ticks

PREFERRED = ("optimum", "greedy-1", "myopic", "uniform", "base")
MAX_LEVELS = 5
MAX_MIX_CYCLES = 8
MAX_PAIRS = 6
MAX_TURNS = 30
MAX_TOOLS = 4
ENOUGH_PAIRS = 3
MAX_INTENTS = 8
BESIDE = 0.12
"""How far beside its cycle a candidate that was not promoted is drawn: it must not hide the policy in service."""


@dataclass(frozen=True)
class Tile:
    """A figure of the headline: before → after."""

    name: str
    before: str
    after: str
    note: str
    share: float | None = None
    """0 to 1 draws a bar."""


@dataclass(frozen=True)
class Verdict:
    """The gate's answer on one cycle."""

    cycle: int
    word: str
    style: str
    reason: str
    facts: Sequence[str]


@dataclass(frozen=True)
class Pair:
    """One seed before and after."""

    seed: str
    before: Transcript
    after: Transcript


def warnings(run: RunReport) -> list[tuple[str, str]]:
    """(cycle, warning) of all stages, the newest cycle first."""
    rows = sorted(run.cycles, key=lambda cycle: cycle.iteration, reverse=True)
    return [
        (f"Cycle {cycle.iteration}" if cycle.iteration else "Warm start", text)
        for cycle in rows
        for text in cycle.warnings
    ]


def tiles(run: RunReport) -> list[Tile]:
    """Success, value, share of the optimum, acceptance: before and after."""
    before, after = run.before, run.after
    if before is None or after is None:
        return []
    rows = [
        Tile(
            "Success",
            words.percent(before.best_success.estimate),
            words.percent(after.best_success.estimate),
            _ci(after.best_success, True) + _ci_before(before.best_success),
        ),
        Tile(
            "Value",
            words.number(before.best_value.estimate),
            words.number(after.best_value.estimate),
            _value_note(after),
        ),
    ]
    share = words.share_of_optimum(after)
    if share is not None:
        start = words.share_of_optimum(before)
        rows.append(
            Tile("Of the optimum", words.percent(start, 0), words.percent(share, 0), "exact solution = 100%", share)
        )
    if after.acceptance is not None and before.acceptance is not None:
        rows.append(
            Tile(
                "Accepted",
                words.percent(before.acceptance.estimate, 0),
                words.percent(after.acceptance.estimate, 0),
                "share of suggestions sent as they were or edited",
            )
        )
    return rows


def _ci(estimate: Estimate, as_percent: bool) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    show = words.percent if as_percent else words.number
    return f"interval {show(estimate.low)} to {show(estimate.high)}"


def _ci_before(estimate: Estimate) -> str:
    """Of the first policy: other customers, so its own interval counts too."""
    return f"; before: {text}" if (text := _ci(estimate, True)) else ""


def _value_note(score: PolicyScore) -> str:
    if score.exact is None:
        return _ci(score.value, False)
    error = score.exact.standard_error
    return f"exact scoring, standard error {words.number(error, 4)}" if error is not None else "exact scoring"


def progress(run: RunReport) -> list[Figure]:
    """Success and value of the policy in service, per cycle, with intervals and reference levels."""
    if not run.evaluated:
        return []
    exact = any(score is not None and score.exact is not None for score in (run.before, run.after))
    level = 0.95 if exact else run.evaluated[-1].evaluation.confidence if run.evaluated[-1].evaluation else 0.95
    text = f"Share of conversations that reach the outcome. Whiskers are {words.percent(level, 0)} intervals."
    value_text = (
        "Discounted outcome per conversation, scored against the exact solution."
        if exact
        else "Discounted outcome per conversation, from the evaluation's rollouts."
    )
    if not exact:
        text += " Every cycle meets customers of its own, and measures the policy that the cycle before it chose."
    return [
        _trajectory(run, "Success", text, lambda s: s.best_success, lambda r: r.success, percent=True),
        _trajectory(run, "Value", value_text, lambda s: s.best_value, lambda r: r.value, percent=False),
    ]


def _trajectory(
    run: RunReport,
    name: str,
    text: str,
    pick: Callable[[PolicyScore], Estimate],
    level_of: Callable[[Reference], float],
    percent: bool,
) -> Figure:
    show = words.percent if percent else words.number
    service = [(label, x, pick(score)) for label, x, score in in_service(run)]
    points = [Point(x, e.estimate, e.low, e.high, f"{label}: {words.interval(e, percent)}") for label, x, e in service]
    refused = [
        Point(
            cycle.iteration + BESIDE,
            e.estimate,
            None,
            None,
            f"cycle {cycle.iteration}, candidate not promoted: {words.interval(e, percent)}",
        )
        for cycle in run.evaluated
        if cycle.evaluation and not run.promoted(cycle)
        for e in [pick(cycle.evaluation.candidate)]
    ]
    series = [Series("in service", points, end_label=True), Series("not promoted", refused, "refused", joined=False)]
    levels = [
        ReferenceLine(row.name, level_of(row), "optimum" if row.name == "optimum" else "reference")
        for row in drawn_references(run.references)
    ]
    last = run.evaluated[-1].iteration
    first = run.evaluated[0].iteration - 1
    axes = Axes(
        "cycle",
        [(x, "start" if x == first else str(x)) for x in integer_ticks(first, last, 8)],
        percent_tick if percent else number_tick,
        exactly=show,
    )
    description = "; ".join(f"{label} {show(e.estimate)}" for label, _, e in service)
    table = FigureTable(
        ["policy in service", name.lower()], [[label, words.interval(e, percent)] for label, _, e in service]
    )
    if refused:
        text += " Hollow dots are candidates that the gate did not promote."
    return figure(
        name,
        text,
        lambda width: line_chart(
            f"{name} per cycle", description, Plot(series, axes, levels), width, 250 if width == NARROW else 290
        ),
        HALF,
        table,
    )


def in_service(run: RunReport) -> list[tuple[str, int, PolicyScore]]:
    """(label, cycle, score) of the policy in service: at the start and after each evaluated cycle."""
    if run.before is None:
        return []
    rows = [("start", run.evaluated[0].iteration - 1, run.before)]
    for cycle in run.evaluated:
        score = run.deployed(cycle)
        if score is not None:
            rows.append((f"cycle {cycle.iteration}", cycle.iteration, score))
    return rows


def drawn_references(references: Sequence[Reference]) -> list[Reference]:
    """The few reference policies that are drawn: the best, the well-known ones, and others while there is room."""
    by_rank = sorted(
        references, key=lambda row: (PREFERRED.index(row.name) if row.name in PREFERRED else 99, -row.value)
    )
    best = by_rank[:MAX_LEVELS]
    return [row for row in references if row in best]


def ladder(run: RunReport) -> FigureTable | None:
    """All reference policies and the run's own, best first."""
    if not run.references:
        return None
    rows = [
        (row.value, [row.name, words.number(row.value, 4), words.percent(row.success), words.reference_words(row.name)])
        for row in run.references
    ]
    for label, _, score in in_service(run)[:1] + in_service(run)[-1:]:
        value, success = score.best_value.estimate, score.best_success.estimate
        rows.append((value, [f"▸ {label}", words.number(value, 4), words.percent(success), "this run"]))
    return FigureTable(["policy", "value", "success", ""], [row for _, row in sorted(rows, key=lambda item: -item[0])])


def verdicts(run: RunReport) -> list[Verdict]:
    """The gate's answer per cycle, newest first."""
    return [_verdict(run, cycle) for cycle in reversed(run.trained)]


def _promise(cycle: Cycle) -> list[str]:
    """What Q promised for a suggestion, on held-out states, beside its own standard error where it has one."""
    gain, error = cycle.metrics.get(IMPROVE, {}), cycle.metrics.get(FIT_Q, {}).get("qStandardError")
    if "heldOutQLift" not in gain:
        return []
    lift = words.interval_of(gain["heldOutQLift"], gain.get("heldOutQLiftLow"), gain.get("heldOutQLiftHigh"))
    least = gain.get("heldOutQLiftLeast")
    doubts = [] if error is None else [f"Q's error {words.number(error, 3)}"]
    doubts += [] if least is None else [f"at least {words.number(least, 3)} less that error"]
    return [", ".join([f"Q promised {lift} a suggestion", *doubts])]


def _cost(cycle: Cycle) -> list[str]:
    """What exploring cost the business while it collected."""
    sold = cycle.metrics.get(COLLECT, {}).get("success")
    alone = cycle.metrics.get(FIT_Q, {}).get("successUnexplored")
    if sold is None or alone is None:
        return []
    return [f"success while it explored {words.percent(sold)}, an estimated {words.percent(alone)} without"]


_STYLES = {"Promoted": "good", "Under way": "calm", "Under test": "calm", "Inconclusive": "unsure", "Stopped": "bad"}


def _verdict(run: RunReport, cycle: Cycle) -> Verdict:
    word = words.verdict(cycle, run.promoted(cycle))
    style = _STYLES.get(word, "bad")
    facts = []
    if cycle.evaluation is not None:
        candidate, lift = cycle.evaluation.candidate, cycle.evaluation.lift
        if lift is not None:
            facts.append(f"lift {words.interval(lift)}")
        facts += [*_promise(cycle), *_cost(cycle)]
        facts.append(f"success {words.interval(candidate.success, True)}")
        if candidate.censored and candidate.success_bounds is not None:
            bounds = candidate.success_bounds
            facts.append(
                f"{candidate.censored:,} conversations censored: success between {words.percent(bounds.low)} and "
                f"{words.percent(bounds.high)}, whatever became of them"
            )
        if candidate.kl is not None:
            facts.append(f"KL {words.number(candidate.kl.estimate, 2)} nats per suggestion")
        if candidate.acceptance is not None:
            facts.append(f"accepted {words.percent(candidate.acceptance.estimate, 0)}")
        if candidate.conversations:
            facts.append(f"{candidate.conversations:,} conversations per policy")
    return Verdict(cycle.iteration, word, style, words.explain(cycle), facts)


def intent_mix(run: RunReport) -> tuple[Figure, list[tuple[str, str]]] | None:
    """Shares of the intents by stage and cycle, and the legend (name, colour). None without exact information."""
    names = words.intents(run)
    rows = [(label, score) for label, _, score in in_service(run) if score.exact and score.exact.intent_mix]
    if not names or not rows:
        return None
    names_drawn, rest = names[: MAX_INTENTS - 1], names[MAX_INTENTS - 1 :]
    if len(rest) <= 1:
        names_drawn, rest = names, []
    legend = colours([*names_drawn, "other"] if rest else names_drawn)
    rows = [rows[index] for index in evenly(len(rows), MAX_MIX_CYCLES)]
    stages = list(dict.fromkeys(mix.stage for _, score in rows if score.exact for mix in score.exact.intent_mix))
    groups = [(_place("stage", stage), _stacks(rows, stage, names_drawn, rest)) for stage in stages]
    head = ["stage", "policy", *legend]
    table = FigureTable(
        head,
        [
            [heading, s.label, *[words.percent(s.shares.get(name, 0)) for name in legend]]
            for heading, stacks in groups
            for s in stacks
        ],
    )
    drawing = figure(
        "What it suggests, by stage of the conversation",
        words.mix_words(run),
        lambda width: stacked_bars("Intent mix by stage and cycle", groups, list(legend), width),
        WHOLE,
        table,
    )
    return drawing, list(legend.items())


def _stacks(
    rows: Sequence[tuple[str, PolicyScore]], stage: str, names: Sequence[str], rest: Sequence[str]
) -> list[Stack]:
    stacks = []
    for label, score in rows:
        for mix in score.exact.intent_mix if score.exact else []:
            if mix.stage == stage:
                shares = {name: mix.shares.get(name, 0.0) for name in names}
                if rest:
                    shares["other"] = sum(mix.shares.get(name, 0.0) for name in rest)
                stacks.append(Stack(label, shares))
    return stacks


def losses(run: RunReport) -> list[Figure]:
    """Where the policy in service loses value against the optimum, and where the first one did."""
    before, after = run.before, run.after
    if after is None or after.exact is None:
        return []
    start = before.exact if before and before.exact and before.digest != after.digest else None
    kinds = [
        ("By turn", "turn", after.exact.loss_by_turn, start.loss_by_turn if start else []),
        ("By stage", "stage", after.exact.loss_by_stage, start.loss_by_stage if start else []),
    ]
    return [_loss_figure(title, noun, now, then) for title, noun, now, then in kinds if now]


def _loss_figure(title: str, noun: str, now: Sequence[LossRow], then: Sequence[LossRow]) -> Figure:
    first = {row.label: row.loss for row in then}
    rows = [(_place(noun, row.label), row.loss, first.get(row.label) if then else None) for row in now]
    text = "Value lost per conversation" + (": now (thick) and at the start (thin)." if then else ".")
    table = FigureTable(
        [noun, "now", *(["at the start"] if then else [])],
        [[label, words.number(a, 4), *([words.number(b, 4)] if then else [])] for label, a, b in rows],
    )
    return figure(title, text, lambda width: loss_bars(f"Lost value {title.lower()}", rows, width), HALF, table)


def _place(noun: str, label: str) -> str:
    """`turn 1` for turn 0: people count from one. Stages keep their names."""
    return f"turn {words.ordinal(label)}" if noun == "turn" else f"stage {label}" if label.isdigit() else label


def conversation_pairs(run: RunReport) -> list[tuple[str, list[Pair]]]:
    """Conversations on the same seeds before and after, in groups, each with a sentence that says which policies spoke.

    The run's first policy against the one in service, on the seeds that both evaluations show. If these are few, also
    the newest promoted candidate against the policy that it replaced, and the same of the first promoted one.
    """
    cycles = [(cycle, cycle.transcripts) for cycle in run.evaluated if cycle.transcripts]
    if not cycles:
        return []
    (first, first_transcripts), (last, last_transcripts) = cycles[0], cycles[-1]
    groups = []
    whole = _paired(
        first_transcripts.current, last_transcripts.candidate if run.promoted(last) else last_transcripts.current
    )
    if first is run.evaluated[0] and run.any_promoted:
        text = f"Before: the policy that the run started from. After: the one in service after cycle {last.iteration}."
        groups.append((text, whole))
    if len(whole) >= ENOUGH_PAIRS and groups:
        return groups
    promoted = [(cycle, transcripts) for cycle, transcripts in cycles if run.promoted(cycle)] or cycles[-1:]
    for cycle, transcripts in (promoted[-1:] + promoted[:1])[: len(promoted)]:
        began = (
            "that the run started from"
            if cycle is run.evaluated[0]
            else f"in service when cycle {cycle.iteration} began"
        )
        ended = f"promoted by cycle {cycle.iteration}" if run.promoted(cycle) else "that the gate did not promote"
        text = f"Before: the policy {began}. After: the one {ended}."
        groups.append((text, _paired(transcripts.current, transcripts.candidate)))
    return [group for group in groups if group[1]]


def _paired(before: Sequence[Transcript], after: Sequence[Transcript]) -> list[Pair]:
    later = {str(transcript.seed): transcript for transcript in after}
    return [Pair(str(b.seed), b, later[str(b.seed)]) for b in before if str(b.seed) in later][:MAX_PAIRS]


def turn_kind(turn: TranscriptTurn) -> str:
    """How the template shows a turn: `abstained`, `accepted`, `edited` or `rejected`."""
    if turn.suggestion is None:
        return "abstained"
    return turn.reaction if turn.reaction in REACTIONS else "rejected"
