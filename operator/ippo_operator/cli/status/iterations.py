"""The iterations of a run, for people and as JSON: the same for a folder and for a cluster."""

from collections.abc import Iterable
from typing import Any

from ippo_trainer.contract.stages import IMPROVE

from ippo_operator.api.status import IterationStatus, to_rfc3339

_EXACT = {
    "value": "exactValue",
    "standardError": "exactStandardError",
    "shareOfOptimum": "exactShareOfOptimum",
    "success": "exactSuccess",
}
"""Key in the JSON -> the candidate's metric; the current policy's has the suffix Current."""
_COLUMNS = (
    ("iteration", 9),
    ("decision", 12),
    ("success", 8),
    ("value", 8),
    ("of optimum", 10),
    ("promoted", 8),
    ("policy", 12),
)
_MOST_WARNINGS = 6
_PROMOTED = {True: "yes", False: "no", None: "asks you"}


def iterations_table(iterations: Iterable[IterationStatus]) -> list[str]:
    """A head and a line for each iteration, of the policy deployed after it; nothing before the first."""
    rows = [row for row in iterations if row.iteration > 0]
    return [_cells([name for name, _ in _COLUMNS]), *(_cells(_table_row(row)) for row in rows)] if rows else []


def iterations_json(iterations: Iterable[IterationStatus]) -> list[dict[str, Any]]:
    """The same for programs. `policyDigest` and `exact` are of the policy deployed afterwards."""
    return [_row(row) for row in iterations if row.iteration > 0]


def warnings(iterations: Iterable[IterationStatus]) -> list[str]:
    """What the stages warned of, newest iteration first."""
    newest = sorted(iterations, key=lambda row: row.iteration, reverse=True)
    return [f"iteration {row.iteration} {text}" for row in newest for text in row.warnings]


def warning_lines(iterations: Iterable[IterationStatus]) -> list[str]:
    """The same for people: as many as one reads, below an empty line."""
    texts = warnings(iterations)
    more = [f"  and {len(texts) - _MOST_WARNINGS} more: --json has them all"] if len(texts) > _MOST_WARNINGS else []
    return ["", "warnings:", *(f"  {text}" for text in texts[:_MOST_WARNINGS]), *more] if texts else []


def plain(model: Any) -> Any:
    """A model as JSON has it; None for None."""
    return None if model is None else model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _row(row: IterationStatus) -> dict[str, Any]:
    candidate = row.artifact(IMPROVE)
    return {
        "iteration": row.iteration,
        "decision": row.decision.outcome if row.decision is not None else None,
        "reason": row.decision.reason if row.decision is not None else None,
        "policyDigest": row.policy,
        "exact": _exact(row, "" if row.promoted else "Current"),
        "candidate": {"policyDigest": candidate.digest if candidate else None, "exact": _exact(row, "")},
        "metrics": row.metrics,
        "promoted": row.promoted,
        "canary": plain(row.canary),
        "artifacts": {done.stage: plain(done.artifact) for done in row.stages},
        "startedAt": to_rfc3339(row.started_at),
        "finishedAt": to_rfc3339(row.finished_at) if row.finished_at is not None else None,
    }


def _exact(row: IterationStatus, suffix: str) -> dict[str, float] | None:
    """The exact score of the candidate (no suffix) or of the policy before it, where the environment has one."""
    scores = {name: row.metrics[metric + suffix] for name, metric in _EXACT.items() if metric + suffix in row.metrics}
    return scores if "value" in scores and row.decision is not None else None


def _table_row(row: IterationStatus) -> list[str]:
    suffix = "" if row.promoted else "Current"

    def figure(name: str, form: str) -> str:
        value = row.metrics.get(name + suffix)
        return "-" if value is None or row.decision is None else format(value, form)

    return [
        str(row.iteration),
        row.decision.outcome if row.decision is not None else "-",
        figure("success", ".1%"),
        figure("value", ".4f"),
        figure("exactShareOfOptimum", ".1%"),
        "-" if row.decision is None else "in test" if _in_test(row) else _PROMOTED[row.promoted],
        (row.policy or "-").removeprefix("sha256:")[:12],
    ]


def _in_test(row: IterationStatus) -> bool:
    return row.promoted is None and row.canary is not None and row.canary.finished_at is None


def _cells(cells: list[str]) -> str:
    pairs = zip(cells, _COLUMNS, strict=True)
    return "  ".join(cell.ljust(width) for cell, (_, width) in pairs).rstrip()
