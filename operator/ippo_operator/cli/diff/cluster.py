"""`ippo diff`: what `kubectl apply -f RUN.yaml` would change of the run in the cluster, and whether it may."""

import json
import sys
from argparse import Namespace
from typing import Any

from ippo_operator.api import changes
from ippo_operator.api.cel import STARTED_BY
from ippo_operator.api.load import parse_run
from ippo_operator.api.problems import ManifestError, shown
from ippo_operator.api.resource import IterativePPORun, RunSpec
from ippo_operator.cli.clusters import check_installed, cluster
from ippo_operator.cli.errors import BAD_INPUT, FAILED, OK, CommandError
from ippo_operator.cli.manifests import explain, read_manifest
from ippo_operator.cluster.errors import InvalidError, NotFoundError
from ippo_operator.cluster.remote.runs import Object, Runs

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def command(arguments: Namespace) -> int:
    """Prints a line for each changed field. 0: none; 1: some; 64: one of them is refused."""
    manifest = read_manifest(arguments.file, arguments.name)
    place = manifest.metadata.namespace
    if place is not None and arguments.namespace not in {None, place}:
        raise CommandError(f"{arguments.file} is for namespace {place}, and -n says {arguments.namespace}")
    arguments.namespace = arguments.namespace or place
    with cluster(arguments) as runs:
        try:
            live = runs.get(manifest.metadata.name)
        except NotFoundError:
            check_installed(runs)
            return _new(runs, manifest)
        return _compare(runs, live, manifest, arguments.file)


def _new(runs: Runs, manifest: IterativePPORun) -> int:
    name = manifest.metadata.name
    try:
        runs.create(_document(manifest), dry=True)
    except InvalidError as error:
        print(f"{name} would be refused: {error}")
        return BAD_INPUT
    print(f"{name} would be created in namespace {runs.namespace}")
    return FAILED


def _compare(runs: Runs, live: Object, manifest: IterativePPORun, place: str) -> int:
    name = manifest.metadata.name
    applied = _last_applied(live)
    if applied is None:
        print(f"note: {name} was not made by kubectl apply; fields that {place} leaves out stay", file=sys.stderr)
    patch = merge_patch((applied or {}).get("spec") or {}, _document(manifest)["spec"], live["spec"])
    try:
        old, new = _spec(live, live["spec"]), _spec(live, merged(live["spec"], patch))
    except ManifestError as error:
        raise CommandError(explain(place, error)) from None
    started = any(field in (live.get("status") or {}) for field in STARTED_BY)
    refused = {problem.path: problem.text for problem in changes.problems(old, new)} if started else {}
    differences = changes.between(old, new)
    for path, was, now in differences:
        verdict = f"REFUSED: {refused[path]}" if path in refused else "allowed"
        print(f"{path}: {shown(was)} → {shown(now)}  {verdict}")
    if refused:
        return BAD_INPUT
    if not differences:
        print(f"{name}: no difference")
        return OK
    try:
        runs.patch(name, {"spec": patch}, dry=True)
    except InvalidError as error:
        print(f"{name} would be refused: {error}")
        return BAD_INPUT
    return FAILED


def _document(manifest: IterativePPORun) -> Object:
    """What the file says, without defaults."""
    document: Object = manifest.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    metadata = document["metadata"]
    document["metadata"] = {key: metadata[key] for key in ("name", "labels", "annotations") if key in metadata}
    return document


def _spec(live: Object, spec: Any) -> RunSpec:
    name = live["metadata"]["name"]
    return parse_run(
        {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {"name": name}, "spec": spec}
    ).spec


def _last_applied(live: Object) -> Object | None:
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def merge_patch(last: Any, new: Any, live: Any) -> Object:
    """The JSON merge patch of a three-way apply: what was applied and is left out goes, what is there is set.

    Args:
        last: applied last time.
        new: to be applied.
        live: as it is; what others set and nobody applied stays.
    """
    last = last if isinstance(last, dict) else {}
    patch: Object = {key: None for key in last if key not in new and key in live}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            inner = merge_patch(last.get(key), value, live[key])
            if inner:
                patch[key] = inner
        elif live.get(key) != value:
            patch[key] = value
    return patch


def merged(document: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
