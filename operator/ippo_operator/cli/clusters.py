"""From the command line to a cluster, and from a cluster's errors to one line with a remedy."""

import difflib
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from ippo_operator.api.resource import RUN_NAME, RUN_NAME_WORDS
from ippo_operator.cli.errors import BAD_INPUT, TRY_AGAIN, CommandError
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cluster.access.files import KubeconfigError, NoClusterError
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_operator.cluster.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from ippo_operator.cluster.remote.calls import Calls
from ippo_operator.cluster.remote.runs import Runs

_MOST_NAMES = 8


@contextmanager
def cluster(arguments: Namespace) -> Iterator[Runs]:
    """The runs of the cluster that the command line names. What goes wrong inside is a CommandError of one line."""
    try:
        with Calls(Flags.of(arguments)) as calls:
            try:
                yield Runs(calls)
            except ApiError as error:
                raise explained(error, calls.login.namespace) from None
    except NoClusterError as error:
        folder = "a run on this machine is named by its folder: ippo status ./DIR"
        raise CommandError(f"{error} or give --kubeconfig; {folder}") from None
    except KubeconfigError as error:
        raise CommandError(str(error)) from None


def find(runs: Runs, name: str) -> RunView:
    """The run. Raises CommandError that says where else it may be, if there is none of that name."""
    if not re.fullmatch(RUN_NAME, name):
        raise CommandError(f"given {name!r} for a run's name; allowed are {RUN_NAME_WORDS}")
    try:
        return cluster_view(runs.get(name))
    except NotFoundError:
        raise CommandError(_missing(runs, name)) from None


def check_installed(runs: Runs) -> None:
    """Raises CommandError if the cluster has no runs as a kind."""
    if not runs.installed():
        raise CommandError(_no_kind(runs))


def _no_kind(runs: Runs) -> str:
    return (
        f"{runs.calls.login.server} knows no IterativePPORuns: install the operator's chart, or choose another cluster "
        "with --context"
    )


def _missing(runs: Runs, name: str) -> str:
    if not runs.installed():
        return _no_kind(runs)
    text = f"there is no run {name} in namespace {runs.namespace}"
    elsewhere = _names(runs, everywhere=True)
    places = sorted(place for place, other in elsewhere if other == name and place != runs.namespace)
    if places:
        return f"{text}; there is one in {', '.join(places)}: give -n {places[0]}"
    here = [other for _, other in _names(runs, everywhere=False)]
    near = difflib.get_close_matches(name, here, n=3, cutoff=0.6)
    if near:
        return f"{text}; did you mean {' or '.join(near)}?"
    if not here:
        return f"{text}, nor any other; see all with: ippo status -A"
    more = ", …" if len(here) > _MOST_NAMES else ""
    return f"{text}; there are: {', '.join(here[:_MOST_NAMES])}{more}"


def _names(runs: Runs, everywhere: bool) -> list[tuple[str, str]]:
    """Namespace and name of the runs that the user may list; they only help an error message along."""
    try:
        return [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in runs.all(everywhere)]
    except ApiError:
        return []


def explained(error: ApiError, namespace: str) -> CommandError:
    """What the API server said, and what to do about it."""
    if isinstance(error, UnavailableError):
        return CommandError(f"{error}; try again", TRY_AGAIN)
    if isinstance(error, ConflictError):
        return CommandError(f"the run changed meanwhile ({error}); try again", TRY_AGAIN)
    if isinstance(error, UnauthorizedError):
        return CommandError("the API server does not accept your credentials (401); log in again, or check --context")
    if isinstance(error, ForbiddenError):
        remedy = f"ask for the role edit (or view, to look only) in namespace {namespace}"
        return CommandError(f"not allowed: {error}; {remedy}")
    return CommandError(f"the API server refused: {error}", BAD_INPUT)
