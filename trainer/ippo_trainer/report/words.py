"""Numbers and findings in words. Pure; plain text, escaped where it meets the page."""

import math

from ippo_trainer.contract.stages import COLLECT, EVALUATE, FIT_Q, IMPROVE
from ippo_trainer.report.model import CalibrationFigures, Cycle, Estimate, PolicyScore, RunReport

EXTINCT = 0.01
"""An intent below this share of the suggestions is called extinct."""
_DONE = {
    COLLECT: "collected",
    FIT_Q: "fitted Q",
    IMPROVE: "improved the policy",
    EVALUATE: "evaluated it",
}


def percent(share: float | None, digits: int = 1) -> str:
    """`28.1%`; a dash where there is no number."""
    if share is None or not math.isfinite(share):
        return "–"
    if abs(share) >= 2:
        digits = 0
    if 0 < share < 0.5 * 10 ** -(digits + 2):
        return f"<{10**-digits:.{digits}f}%"
    return f"{100 * share:.{digits}f}%".replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """`0.231`; few digits for large numbers, scientific for tiny ones, a real minus sign, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size and size < 10**-digits:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    text = f"{value:.{digits}f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")


def interval(estimate: Estimate | None, as_percent: bool = False, digits: int = 3) -> str:
    """`0.231 (0.224 to 0.238)`."""
    if estimate is None:
        return "–"
    return interval_of(estimate.estimate, estimate.low, estimate.high, as_percent, digits)


def interval_of(middle: float, low: float | None, high: float | None, as_percent: bool = False, digits: int = 3) -> str:
    """`interval` of its three numbers."""

    def show(value: float | None) -> str:
        return percent(value) if as_percent else number(value, digits)

    if low is None or high is None:
        return show(middle)
    return f"{show(middle)} ({show(low).rstrip('%')} to {show(high)})"


def count(amount: int, noun: str, plural: str = "") -> str:
    """`1 cycle`, `3 cycles`, `2,000 conversations`."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def clip(text: str, limit: int = 1200) -> str:
    """A message, cut where it is longer than anybody reads in a report."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def ordinal(turn: str) -> str:
    """Artifacts count turns from 0, people from 1."""
    return str(int(turn) + 1) if turn.isdigit() else turn


def short(digest: str) -> str:
    """The first 12 hex digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def share_of_optimum(score: PolicyScore | None) -> float | None:
    """Exact value over the optimum's, where the environment can be solved."""
    if score is None or score.exact is None:
        return None
    exact = score.exact
    if exact.share_of_optimum is not None:
        return exact.share_of_optimum
    return exact.value / exact.optimum if exact.optimum else None


def headline(run: RunReport) -> str:
    """One sentence: what the policy achieved."""
    before, after = run.before, run.after
    stopped = stopped_by_q(run)
    if before is None or after is None:
        if stopped:
            return f"Stopped in cycle {stopped.iteration}: Q had nothing to teach."
        if (cycle := judged_on_a_log(run)) is not None:
            if cycle.test:
                return _TESTED[cycle.settled]
            more = cycle.decision is not None and cycle.decision.outcome == "Promote"
            return (
                "The candidate promises more than the policy before it." if more else "The candidate promises no more."
            )
        return "The run failed before there was anything to compare." if _failed(run) else "Nothing to compare yet."
    if not run.any_promoted:
        return f"No candidate has replaced the starting policy: {percent(before.best_success.estimate)} succeed."
    start, end = percent(before.best_success.estimate), percent(after.best_success.estimate)
    if start == end:
        return f"{end} of conversations succeed, as many as at the start."
    change = "up" if after.best_success.estimate > before.best_success.estimate else "down"
    return f"{end} of conversations succeed, {change} from {start}."


_TESTED = {
    None: "The latest candidate is in an A/B test on customers.",
    True: "The latest candidate proved better on customers, and was promoted.",
    False: "The latest candidate was put to the test on customers, and not promoted.",
}


def subline(run: RunReport) -> str:
    """The second sentence: value, share of the optimum, over how many cycles."""
    before, after = run.before, run.after
    if (cycle := judged_on_a_log(run)) is not None:
        return f"{cycle.test} {_off_policy(cycle)}".strip()
    if before is None or after is None:
        return (
            "A Q that predicts no better than the average outcome must not be optimised. More conversations per cycle, "
            "more epochs or a better start would help."
            if stopped_by_q(run)
            else "It goes on from where it stopped once the cause is mended."
            if _failed(run)
            else "No candidate has been evaluated; this page fills as the cycles end."
        )
    promotions, cycles = sum(map(run.promoted, run.evaluated)), count(len(run.evaluated), "cycle")
    share, first = share_of_optimum(after), share_of_optimum(before)
    was, now = number(before.best_value.estimate), number(after.best_value.estimate)
    if not run.any_promoted:
        of = "" if share is None else f", {percent(share, 0)} of the optimum"
        candidates = count(len(run.evaluated), "candidate")
        return f"The value of a conversation is {now}{of}. The gate promoted none of {candidates}."
    gain = (
        f"The value of a conversation went from {was} to {now}"
        if share is None
        else f"That is {percent(share, 0)} of the value an optimal policy gets, from {percent(first, 0)}"
    )
    return f"{gain}, after {cycles} of Iterative PPO, {promotions} of them promoted."


def judged_on_a_log(run: RunReport) -> Cycle | None:
    """The last cycle, if no simulator could try its candidate and logged states were the evidence."""
    last = run.trained[-1] if run.trained else None
    return last if last is not None and last.decision is not None and _unsimulated(last) else None


def _unsimulated(cycle: Cycle) -> bool:
    return "heldOutQLift" in cycle.metrics.get(EVALUATE, {})


def _off_policy(cycle: Cycle) -> str:
    """What the log tells of the candidate's value, in a sentence."""
    figures = cycle.metrics.get(EVALUATE, {})
    names = ("offPolicyValue", "offPolicyValueCurrent")
    if not all(f"{name}{end}" in figures for name in names for end in ("", "Low", "High")):
        return "Nothing was simulated: the evidence is an estimate by Q, and a human has the last word."
    own, before = (interval_of(figures[name], figures[f"{name}Low"], figures[f"{name}High"]) for name in names)
    return (
        f"By the held-out conversations of the log a conversation with it is worth {own}, with the policy before it "
        f"{before}. Nothing was simulated: these are estimates, and a human has the last word."
    )


def stopped_by_q(run: RunReport) -> Cycle | None:
    """The last cycle, if an uninformative Q ended it."""
    last = run.trained[-1] if run.trained else None
    return last if last and last.informative is False and last.evaluation is None else None


def _failed(run: RunReport) -> bool:
    return run.standing is not None and run.standing.state == "Failed"


def state(run: RunReport) -> str:
    """Where the run stands: how many cycles ended, what the open one did."""
    total = f" of {run.planned_cycles}" if run.planned_cycles else ""
    if not run.cycles:
        return "Nothing has been published yet."
    open_cycle = next((cycle for cycle in run.trained if not is_over(cycle)), None)
    if open_cycle is not None:
        did = [words for stage, words in _DONE.items() if stage in open_cycle.artifacts]
        so_far = f"so far it {listed(did)}" if did else "it has published nothing yet"
        doing = f"failed: before that it {listed(did)}" if did and _failed(run) else "failed" if _failed(run) else None
        return f"Cycle {open_cycle.iteration}{total} {doing or f'is under way: {so_far}'}."
    if stopped := stopped_by_q(run):
        return f"Cycle {stopped.iteration}{total} stopped before its improvement: Q was not informative."
    if not run.trained:
        return "The warm start is done; the first cycle has not published anything yet."
    return f"{len(run.trained)}{total} {'cycle has' if len(run.trained) == 1 else 'cycles have'} ended."


def is_over(cycle: Cycle) -> bool:
    """Whether nothing more is expected of a cycle: evaluated, or stopped by an uninformative Q."""
    return cycle.evaluation is not None or cycle.decision is not None or cycle.informative is False


def verdict(cycle: Cycle, promoted: bool) -> str:
    """The gate's answer in one word, for a badge."""
    if cycle.evaluation is None and cycle.decision is None:
        return "Stopped" if cycle.informative is False else "Under way"
    if promoted:
        return "Promoted"
    if cycle.test:
        return "Under test" if cycle.settled is None else "Not promoted"
    if _unsimulated(cycle) and cycle.decision is not None and cycle.decision.outcome == "Promote":
        return "For a human"
    outcome = cycle.decision.outcome if cycle.decision else ""
    return "Inconclusive" if outcome == "Inconclusive" else "Rejected" if outcome == "Reject" else "Not promoted"


def explain(cycle: Cycle) -> str:
    """The gate's decision in words."""
    if cycle.decision is not None and cycle.decision.reason:
        return f"{cycle.test} The forecast: {cycle.decision.reason}" if cycle.test else cycle.decision.reason
    if cycle.informative is False:
        return cycle.messages.get(FIT_Q) or f"Stopped before the improvement: {skill_words(cycle.calibration)}"
    if cycle.evaluation is not None:
        return "The evaluation recorded no decision."
    did = [words for stage, words in _DONE.items() if stage in cycle.artifacts]
    return f"So far it {listed(did)}." if did else "Nothing published yet."


def skill_words(calibration: CalibrationFigures | None) -> str:
    """Whether the fitted Q knows more than a constant."""
    if calibration is None or calibration.skill is None:
        return "no held-out skill was recorded for Q."
    skill, slope = calibration.skill, calibration.slope
    if slope is not None and slope.low is not None:
        return _slope_words(slope, skill)
    low, high = skill.low, skill.high
    between = "" if low is None or high is None else f" (interval {percent(low)} to {percent(high)})"
    if skill.estimate <= 0:
        return (
            f"Q predicts held-out returns no better than a constant: its skill is {percent(skill.estimate)}{between}."
        )
    text = f"Q explains {percent(skill.estimate)} of the constant predictor's held-out log-loss{between}"
    if low is None:
        return text + "."
    return text + (
        "; the interval contains zero, so it may know nothing."
        if low <= 0
        else "; it knows more than the average outcome."
    )


def _slope_words(slope: Estimate, skill: Estimate) -> str:
    """By the slope of returns on Q, which decides, and by skill, which may forbid."""
    more = f"where Q promises a point more, held-out returns are {interval(slope, digits=2)} points higher"
    saved = f"its skill is {interval(skill, True)}"
    if slope.low is not None and slope.low <= 0.0:
        return f"Q may know nothing: {more}, and that interval does not lie above zero; {saved}."
    if skill.high is not None and skill.high <= 0.0:
        return f"A constant predicts better than Q, which exaggerates: {saved}, though {more}."
    return f"Q knows more than the average outcome: {more}; {saved}."


def intents(run: RunReport) -> list[str]:
    """The intents that the run's exact scores saw at all, in their first order of appearance."""
    names: dict[str, None] = {}
    for cycle in run.evaluated:
        for score in (cycle.evaluation.current, cycle.evaluation.candidate) if cycle.evaluation else ():
            for row in score.exact.intent_mix if score.exact else []:
                names.update(dict.fromkeys(name for name, share in row.shares.items() if share > 0))
    return list(names)


def extinct(run: RunReport) -> list[str]:
    """Intents that the starting policy used somewhere and the deployed one uses in no stage."""

    def most(score: PolicyScore | None, intent: str) -> float:
        rows = score.exact.intent_mix if score and score.exact else []
        return max((row.shares.get(intent, 0.0) for row in rows), default=0.0)

    return [name for name in intents(run) if most(run.before, name) >= EXTINCT > most(run.after, name)]


def mix_words(run: RunReport) -> str:
    """What to look for in the intent mix."""
    vanished = extinct(run)
    if not vanished:
        return "Every intent that the starting policy used is still in use somewhere."
    remaining = [name for name in intents(run) if name not in vanished]
    if not remaining:
        return f"{listed(vanished)} have vanished."
    have = "has" if len(vanished) == 1 else "have"
    return (
        f"{listed(vanished)} {have} all but vanished (under {percent(EXTINCT, 0)} in every stage). A policy that only "
        f"uses {listed(remaining)} cannot score better than the best one with those alone: if the value has stopped "
        "rising, look here first."
    )


def worst_loss(score: PolicyScore | None) -> str:
    """Where the deployed policy still loses most."""
    exact = score.exact if score else None
    if exact is None or not (exact.loss_by_turn or exact.loss_by_stage):
        return ""
    parts = []
    for name, rows in (("turn", exact.loss_by_turn), ("stage", exact.loss_by_stage)):
        total = sum(row.loss for row in rows)
        if rows and total > 0:
            worst = max(rows, key=lambda row: row.loss)
            where = ordinal(worst.label) if name == "turn" else worst.label
            parts.append(f"{percent(worst.loss / total, 0)} of it at {name} {where}")
    gap = sum(row.loss for row in exact.loss_by_turn or exact.loss_by_stage)
    return f"The policy in service loses {number(gap)} against the optimum" + (f", {listed(parts)}." if parts else ".")


def reference_words(name: str) -> str:
    """What a reference policy of an environment's ladder does; empty for a name that is not among the usual ones."""
    descriptions = {
        "optimum": "the best possible policy",
        "base": "what the logged business does",
        "uniform": "any intent at random",
        "myopic": "the best outcome at this very turn",
        "most-accepted": "what the business accepts most often",
        "abstain": "no suggestions at all",
    }
    kind, _, steps = name.rpartition("-")
    if name in descriptions or not steps.isdigit():
        return descriptions.get(name, "")
    often = count(int(steps), "step")
    if kind == "greedy":
        return f"{often} of exact policy iteration"
    if kind == "filtered-bc":
        return f"{count(int(steps), 'round')} of cloning the successes, infinite data"
    return f"{often} of exact policy iteration with KL weight {kind[5:]}" if kind.startswith("soft-") else ""
