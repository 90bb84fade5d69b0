"""The training's inside for the template: Q's calibration and curves, PPO's curves. All pure."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ippo_trainer.contract.stages import FIT_Q, WARM_START
from ippo_trainer.report import words
from ippo_trainer.report.charts import Axes, Plot, Point, ReferenceLine, Series, line_chart, number_tick, reliability
from ippo_trainer.report.model import Bin, CalibrationFigures, Cycle, LikenessFigures, RunReport
from ippo_trainer.report.parts import NARROW, Figure, FigureTable, small_figure
from ippo_trainer.report.svg import evenly, integer_ticks, thin

MAX_POINTS = 240
"""Points per line of a training curve; longer curves show means of neighbouring updates."""
MAX_CURVE_CYCLES = 12
MAX_OTHER_CURVES = 12
MAX_OLD_FITS = 6
MAX_TURN_TICKS = 12
MAX_MESSAGES = 12

Curve = tuple[str, str, Mapping[str, str]]
"""Title, explanation, and the metrics in it with their names."""
MAIN_CURVES: tuple[Curve, ...] = (
    ("KL to the previous policy", "Nats per suggestion. The KL weight adapts to the budget.", {"kl": "KL"}),
    ("Gain in Q", "Mean Q of the samples over that of the previous policy in the same states.", {"q_lift": "gain"}),
    ("Reward", "Q of the samples; PPO normalises it.", {"reward_mean": "reward"}),
    ("Entropy", "Nats per token. Near zero, the policy has stopped trying anything.", {"entropy": "entropy"}),
    (
        "Clipped ratios",
        "Share of tokens, with RLOO of suggestions, whose ratio was clipped, downwards and upwards.",
        {"clip_fraction_low": "down", "clip_fraction_high": "up"},
    ),
    (
        "Explained variance",
        "Of the returns, by the critic: 1 is perfect, 0 a constant.",
        {"explained_variance": "variance"},
    ),
    ("Critic loss", "Squared error of the value head.", {"value_loss": "loss"}),
    ("KL weight", "PPO adapts it so that the KL keeps to its budget.", {"kl_coefficient": "weight"}),
    ("Length", "Tokens per suggestion.", {"response_length": "tokens"}),
)
MORE_CURVES: tuple[Curve, ...] = (
    ("Mean Q", "Of the samples.", {"q_mean": "Q"}),
    ("Policy loss", "PPO's clipped surrogate; its level means little.", {"policy_loss": "loss"}),
    ("Step size", "Approximate KL between the policy before and after an update.", {"approx_kl": "KL"}),
    ("Largest ratio", "New over old probability of a token.", {"ratio_max": "ratio"}),
    ("Truncated", "Share of suggestions that did not end in time.", {"truncation_rate": "share"}),
    ("Learning rate", "Of the policy.", {"learning_rate": "rate"}),
    ("Spread of the reward", "Standard deviation over the batch.", {"reward_std": "deviation"}),
    ("Nothing to choose", "Share of states whose samples all got the same reward.", {"constant_reward_share": "share"}),
    ("Sampler against learner", "KL between the two log-probabilities of the same tokens.", {"mismatch_kl": "KL"}),
    ("Gradient norm, policy", "Before clipping.", {"grad_norm": "norm"}),
    ("Gradient norm, critic", "Before clipping.", {"critic_grad_norm": "norm"}),
)
STYLES = ("curve", "second", "third", "fourth")
_COUNTERS = {"update", "epoch", "step"}


def q_table(run: RunReport) -> FigureTable | None:
    """How good each cycle's Q was on held-out conversations."""
    fitted = [cycle for cycle in run.trained if cycle.calibration is not None]
    if not fitted:
        return None
    return FigureTable(
        [
            "",
            "verdict",
            "skill",
            "of the suggestion",
            "slope",
            "log-loss",
            "Brier",
            "error",
            "miscalibration",
            "like exact Q: as suggested",
            "any intent",
        ],
        [_q_row(cycle, cycle.calibration) for cycle in fitted if cycle.calibration is not None],
    )


def _q_row(cycle: Cycle, fit: CalibrationFigures) -> list[str]:
    exact, correlation = fit.exact, cycle.metrics.get(FIT_Q, {}).get("advantageCorrelation")
    return [
        f"cycle {cycle.iteration}",
        {True: "informative", False: "not informative", None: "–"}[cycle.informative],
        words.interval(fit.skill, True),
        words.interval(fit.action_skill, True),
        words.interval(fit.slope, digits=2),
        f"{words.number(fit.log_loss, 4)} / {words.number(fit.log_loss_constant, 4)}",
        f"{words.number(fit.brier, 4)} / {words.number(fit.brier_constant, 4)}",
        words.number(fit.calibration_error, 4),
        words.interval(fit.miscalibration, digits=4),
        _likeness(exact.suggestions if exact else None, correlation),
        _likeness(exact.intents if exact else None, None),
    ]


def _likeness(likeness: LikenessFigures | None, correlation: float | None) -> str:
    """Correlation of advantages and error; release 0.2 knew a correlation only."""
    if likeness is None:
        return words.number(correlation, 2)
    return f"{words.number(likeness.correlation, 2)}, error {words.number(likeness.error, 3)}"


def open_conversations(run: RunReport) -> str:
    """What the censored conversations of the newest log may hide; empty where there are none."""
    logs = [(cycle.iteration, cycle.calibration.censoring) for cycle in run.trained if cycle.calibration]
    iteration, log = logs[-1] if logs else (0, None)
    if log is None or log.success_bounds is None:
        return ""
    low, high = words.percent(log.success_bounds.low), words.percent(log.success_bounds.high)
    text = (
        f"In cycle {iteration} {log.censored:,} of {log.conversations:,} logged conversations were still open. "
        "Finished ones stand in for them, weighted by turn; "
        f"whatever became of them, success is between {low} and {high}."
    )
    if log.unseen:
        text += f" An estimated {words.percent(log.unseen)} end where nobody could see it: Q is one of the others."
    return text


def q_figures(run: RunReport) -> list[Figure]:
    """The newest fit's reliability and calibration by turn, and all fits' training curves."""
    fitted = [cycle for cycle in run.trained if cycle.calibration is not None]
    if not fitted:
        return []
    figures = _fit_figures(fitted[-1])
    curves = _q_curves(fitted[-MAX_CURVE_CYCLES:])
    return figures + ([curves] if curves else [])


def old_fits(run: RunReport) -> list[Figure]:
    """Reliability of earlier fits, evenly chosen."""
    fitted = [cycle for cycle in run.trained if cycle.calibration is not None][:-1]
    return [figure for index in evenly(len(fitted), MAX_OLD_FITS) for figure in _fit_figures(fitted[index])[:1]]


def _fit_figures(cycle: Cycle) -> list[Figure]:
    fit = cycle.calibration
    figures: list[Figure] = []
    if fit is None:
        return figures
    if fit.bins:
        title = f"Reliability, cycle {cycle.iteration}"
        text = "Held-out turns in groups of equal prediction. On the dashed line, Q is right on average."
        figures.append(small_figure(title, text, reliability(title, fit.bins, NARROW), _bin_table(fit.bins, "group")))
    if fit.calibration:
        title = f"By turn, cycle {cycle.iteration}"
        figures.append(_by_turn(title, fit.calibration))
    return figures


def _by_turn(title: str, rows: Sequence[Bin]) -> Figure:
    turns = [float(row.turn if row.turn is not None else index) + 1 for index, row in enumerate(rows)]
    observed = [
        Point(
            x,
            row.observed,
            row.low,
            row.high,
            f"turn {x:g}, observed {words.interval_of(row.observed, row.low, row.high)}",
        )
        for x, row in zip(turns, rows, strict=True)
    ]
    predicted = [
        Point(x, row.predicted, tip=f"turn {x:g}, predicted {words.number(row.predicted)}")
        for x, row in zip(turns, rows, strict=True)
    ]
    lines = [Series("observed", observed, "main"), Series("predicted", predicted, "second")]
    few = len(turns) <= MAX_TURN_TICKS
    axes = Axes("turn", [(x, f"{x:g}") for x in turns] if few else _round_ticks(turns), number_tick)
    description = "; ".join(
        f"turn {x:g} predicted {words.number(r.predicted)} observed {words.number(r.observed)}"
        for x, r in zip(turns, rows, strict=True)
    )
    drawing = line_chart(title, description, Plot(lines, axes), NARROW, 240)
    return small_figure(
        title, "Mean return by depth of the turn, intervals by conversation.", drawing, _bin_table(rows, "turn")
    )


def _round_ticks(xs: Sequence[float]) -> list[tuple[float, str]]:
    return [(float(x), f"{x:,}") for x in integer_ticks(int(min(xs)), int(max(xs)), 5)]


def _bin_table(rows: Sequence[Bin], noun: str) -> FigureTable:
    return FigureTable(
        [noun, "predicted", "observed", "turns"],
        [
            [
                str((row.turn if row.turn is not None else index) + 1),
                words.number(row.predicted),
                words.interval_of(row.observed, row.low, row.high),
                f"{row.count:,}",
            ]
            for index, row in enumerate(rows)
        ],
    )


def _q_curves(cycles: Sequence[Cycle]) -> Figure | None:
    curves = [(cycle.iteration, cycle.calibration.curves if cycle.calibration else []) for cycle in cycles]
    keys = {"train_loss": "training", "held_out_loss": "held out"}
    drawing = _concatenated("Q's loss while it trains", curves, keys, [], "epoch")
    return (
        small_figure(
            "Training of Q", "Log-loss per epoch. Held-out rising while training falls: it memorises.", drawing
        )
        if drawing
        else None
    )


def warm_start_figure(run: RunReport) -> Figure | None:
    """The supervised start's loss."""
    start = run.warm_start
    rows = start.training.curves if start and start.training else []
    keys = {key: key.replace("_", " ") for key in ("loss", "train_loss", "held_out_loss", "eval_loss")}
    drawing = _concatenated("Loss of the warm start", [(0, rows)], keys, [], "update")
    if not drawing:
        return None
    text = "Cross-entropy of the logged suggestions."
    perplexity = start.metrics.get(WARM_START, {}).get("heldOutPerplexity") if start else None
    if perplexity is not None:
        text += f" It found those that it had not learnt yet at a perplexity of {perplexity:.2f} per token."
    return small_figure("Warm start", text, drawing)


def ppo_figures(run: RunReport) -> tuple[list[Figure], list[Figure]]:
    """One small chart per metric of the improvement, cycle after cycle on one axis: the main ones, and the others."""
    cycles = [cycle for cycle in run.trained if cycle.training and cycle.training.curves][-MAX_CURVE_CYCLES:]
    curves = [(cycle.iteration, cycle.training.curves if cycle.training else []) for cycle in cycles]
    budget = _decimal(run.setting("improve.klTarget"))
    shown = {key for _, _, keys in MAIN_CURVES + MORE_CURVES for key in keys} | _COUNTERS
    strange = list(dict.fromkeys(key for _, rows in curves for row in rows for key in row if key not in shown))
    unknown = [(key.replace("_", " ").capitalize(), "", {key: key}) for key in strange[:MAX_OTHER_CURVES]]
    return _curve_figures(MAIN_CURVES, curves, budget), _curve_figures([*MORE_CURVES, *unknown], curves, budget)


def _curve_figures(
    definitions: Sequence[Curve], curves: Sequence[tuple[int, Sequence[Mapping[str, float]]]], budget: float | None
) -> list[Figure]:
    figures = []
    for title, text, keys in definitions:
        levels = [ReferenceLine("budget", budget)] if budget is not None and "kl" in keys else []
        drawing = _concatenated(title, curves, keys, levels, "update")
        if drawing:
            figures.append(small_figure(title, text, drawing))
    return figures


def stage_messages(run: RunReport, stage: str) -> list[tuple[int, str]]:
    """(cycle, what the stage said of its result), newest first."""
    rows = [(cycle.iteration, cycle.messages[stage]) for cycle in run.trained if stage in cycle.messages]
    return rows[: -MAX_MESSAGES - 1 : -1]


def _decimal(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _concatenated(
    title: str,
    curves: Sequence[tuple[int, Sequence[Mapping[str, float]]]],
    keys: Mapping[str, str],
    levels: Sequence[ReferenceLine],
    unit: str,
) -> Markup | None:
    """The curves of several cycles one after the other, a divider where each begins; None if no row has the keys."""
    lines: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
    starts, offset, several = [], 0, len(curves) > 1
    for iteration, rows in curves:
        starts.append((float(offset), str(iteration)))
        for key in keys:
            finite = [
                (float(offset + n), float(value)) for n, row in enumerate(rows) if (value := row.get(key)) is not None
            ]
            lines[key] += thin(finite, max(MAX_POINTS // len(curves), 2))
        offset += len(rows)
    series = [
        Series(name, [Point(x, y) for x, y in lines[key]], style, markers=False)
        for (key, name), style in zip(keys.items(), STYLES, strict=False)
        if lines[key]
    ]
    if not series:
        return None
    label = f"{unit}, cycle after cycle" if several else unit
    axes = Axes(
        label, _round_ticks([0, max(offset - 1, 1)]), number_tick, zero=False, dividers=starts if several else []
    )
    ends = [
        f"{line.name} from {words.number(line.points[0].y)} to {words.number(line.points[-1].y)}" for line in series
    ]
    return line_chart(title, ", ".join(ends), Plot(series, axes, levels), NARROW, 170)
