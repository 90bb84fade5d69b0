"""Learning curves of several runs: the rows, their summary by cycle, and the files that they are written to."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ippo_trainer.report.charts import Axes, Plot, Point, Series, line_chart, percent_tick
from ippo_trainer.stats.student import two_sided_quantile


@dataclass(frozen=True)
class Row:
    """One cycle. Values are shares of the optimum."""

    funnel: str
    seed: int
    cycle: int
    deployed: float
    """Of the policy in service after the gate."""
    candidate: float
    before: float
    """Of the policy in service before, on the same customers."""
    decision: str


def by_cycle(rows: Iterable[Row]) -> dict[int, list[float]]:
    """Shares of the policies in service after each cycle, 0 for the start."""
    shares = defaultdict(list)
    for row in rows:
        if row.cycle == 1:
            shares[0].append(row.before)
        shares[row.cycle].append(row.deployed)
    return dict(sorted(shares.items()))


def summary(shares: Sequence[float]) -> dict[str, float]:
    """Mean with its 95 % t-interval over runs, and the worst."""
    count, mean = len(shares), sum(shares) / len(shares)
    if count < 2:
        return {"runs": count, "mean": mean, "worst": min(shares)}
    deviation = (sum((share - mean) ** 2 for share in shares) / (count - 1)) ** 0.5
    half = two_sided_quantile(0.95, count - 1) * deviation / count**0.5
    return {"runs": count, "mean": mean, "low": mean - half, "high": mean + half, "worst": min(shares)}


def write(out: Path, curves: Mapping[str, Sequence[Row]]) -> None:
    """OUT/curves.csv with all rows, OUT/curves.json and OUT/curves.svg by cycle, for each method."""
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *Row.__annotations__])
        writer.writerows([name, *vars(row).values()] for name, rows in curves.items() for row in rows)
    tables = {
        name: {cycle: summary(shares) for cycle, shares in by_cycle(rows).items()} for name, rows in curves.items()
    }
    (out / "curves.json").write_text(json.dumps(tables, indent=1))
    series = [
        Series(name, [Point(cycle, each["mean"], each.get("low"), each.get("high")) for cycle, each in table.items()])
        for name, table in tables.items()
        if table
    ]
    cycles = sorted({cycle for table in tables.values() for cycle in table})
    axes = Axes("cycle", [(cycle, str(cycle)) for cycle in cycles], percent_tick)
    chart = line_chart("Learning curve", "Share of the optimum by cycle.", Plot(series, axes))
    (out / "curves.svg").write_text(picture(str(chart)))


def picture(chart: str) -> str:
    """A chart of a report as a file of its own: with the report's colours, and the rules for charts of its style."""
    style = (files("ippo_trainer.report") / "style.css").read_text("utf-8")
    colours, _, rules = style.partition("* {")
    own = [line for line in rules.splitlines() if line.startswith("svg ") and line.endswith("}")]
    own.append("svg { background: var(--card); font-family: system-ui, sans-serif; }")
    style = "<style>" + colours + "\n".join(own) + "</style>"
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("<desc>", style + "<desc>", 1)


def show(curves: Mapping[str, Sequence[Row]]) -> None:
    """A line per method and cycle."""
    for name, rows in curves.items():
        for cycle, shares in by_cycle(rows).items():
            figures = ", ".join(f"{key} {value:.3f}" for key, value in summary(shares).items() if key != "runs")
            print(f"{name}, cycle {cycle}: {len(shares)} runs, {figures}")
