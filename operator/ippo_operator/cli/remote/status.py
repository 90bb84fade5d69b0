"""`ippo status` in a cluster: one run in full, all runs of a namespace as a table, or live until the run ends."""

import json
from argparse import Namespace

from ippo_operator.cli.errors import FAILED, OK, CommandError
from ippo_operator.cli.remote.connect import check_installed, cluster, find
from ippo_operator.cli.remote.one_run import as_json, lines, progress
from ippo_operator.cli.remote.view import now, view
from ippo_operator.cli.remote.watch import follow
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
            last = follow(runs, arguments.run, quiet=arguments.json)
            if arguments.json:
                print(json.dumps(as_json(last), indent=2))
            return OK if last.well else FAILED
        found = view(find(runs, arguments.run))
        print(
            json.dumps(as_json(found), indent=2) if arguments.json else "\n".join(lines(found, progress(runs, found)))
        )
    return OK


def _table(runs: Runs, everywhere: bool) -> list[str]:
    check_installed(runs)
    found = runs.all(everywhere)
    if not found:
        return [
            "no runs in any namespace" if everywhere else f"no runs in namespace {runs.namespace}; all: ippo status -A"
        ]
    head = ("NAMESPACE", *_COLUMNS) if everywhere else _COLUMNS
    rows = [head, *((raw["metadata"]["namespace"], *_cells(raw)) if everywhere else _cells(raw) for raw in found)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(head))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(raw: Object) -> tuple[str, ...]:
    try:
        found = view(raw)
    except CommandError:  # one run of another version does not hide the others
        return str(raw["metadata"]["name"]), "Unknown", "-", "-", "status of another version", "-"
    status = found.status
    stage = f"{status.stage} ({status.iteration})" if status.stage is not None and not found.ended else "-"
    age = span_in_words(found.age(now()))
    return found.name, found.phase, status.progress or f"0/{found.limit}", stage, str(found.reason or "-"), age
