"""`ippo status` in a cluster: one run in full, all runs of a namespace as a table, or live until the run ends."""

import json
from argparse import Namespace

from ippo_operator.cli.clusters import check_installed, cluster, find
from ippo_operator.cli.errors import FAILED, OK, CommandError
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cli.status.lines import as_json, lines
from ippo_operator.cli.status.progress import cluster_progress
from ippo_operator.cli.status.watch import follow
from ippo_operator.cluster.remote.runs import Object, Runs
from ippo_operator.plan.figures import span_in_words

_COLUMNS = ("NAME", "PHASE", "PROGRESS", "STAGE", "REASON", "AGE")


def command(arguments: Namespace) -> int:
    """Prints where a run, or every run, is."""
    if arguments.run is None and (arguments.watch or arguments.json):
        raise CommandError("--watch and --json need the name of a run; for all: kubectl get ippo -w, or -o json")
    if arguments.run is not None and arguments.all_namespaces:
        raise CommandError("-A lists the runs of all namespaces; for one run give its namespace with -n")
    with cluster(arguments) as runs:
        if arguments.run is None:
            print("\n".join(_table(runs, arguments.all_namespaces)))
            return OK
        if arguments.watch:
            run = follow(runs, arguments.run, quiet=arguments.json)
            if arguments.json:
                _print_json(run)
            return OK if run.well else FAILED
        run = find(runs, arguments.run)
        if arguments.json:
            _print_json(run)
        else:
            print("\n".join(lines(run, cluster_progress(runs, run))))
    return OK


def _print_json(run: RunView) -> None:
    print(json.dumps(as_json(run) | {"namespace": run.namespace, "observed": run.observed}, indent=2))


def _table(runs: Runs, everywhere: bool) -> list[str]:
    check_installed(runs)
    items = runs.all(everywhere)
    if not items:
        return [
            "no runs in any namespace" if everywhere else f"no runs in namespace {runs.namespace}; all: ippo status -A"
        ]
    head = ("NAMESPACE", *_COLUMNS) if everywhere else _COLUMNS
    rows = [head, *((raw["metadata"]["namespace"], *_cells(raw)) if everywhere else _cells(raw) for raw in items)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(head))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(raw: Object) -> tuple[str, ...]:
    try:
        run = cluster_view(raw)
    except CommandError:  # one run of another version does not hide the others
        return str(raw["metadata"]["name"]), "Unknown", "-", "-", "status of another version", "-"
    status = run.status
    stage = f"{status.stage} ({status.iteration})" if status.stage is not None and not run.ended else "-"
    age = span_in_words(run.age)
    return run.name, run.phase, status.progress or f"0/{run.limit}", stage, str(run.reason or "-"), age
