"""Names for completions: whoever types waits a few seconds at most, and an error is no name."""

from argparse import Namespace
from contextlib import suppress
from typing import TypeAlias

from ippo_operator.cluster.access import kubeconfig
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_operator.cluster.client import RetryPolicy
from ippo_operator.cluster.errors import ApiError
from ippo_operator.cluster.remote.calls import Calls
from ippo_operator.cluster.remote.runs import Runs

Names: TypeAlias = list[str]
_PATIENCE = RetryPolicy(attempts=1, timeout=3.0)


def runs(arguments: Namespace) -> Names:
    """Of the runs in the namespace."""
    with suppress(KubeconfigError, ApiError), Calls(Flags.of(arguments), patience=_PATIENCE) as calls:
        return [str(item["metadata"]["name"]) for item in Runs(calls).all()]
    return []


def namespaces(arguments: Namespace) -> Names:
    """Of the cluster's namespaces, for whom may list them."""
    with suppress(KubeconfigError, ApiError), Calls(Flags.of(arguments), patience=_PATIENCE) as calls:
        return Runs(calls).namespaces()
    return []


def of_kubeconfig(arguments: Namespace, section: str) -> Names:
    """Of its contexts, clusters or users."""
    with suppress(KubeconfigError):
        return kubeconfig.names(section, Flags.of(arguments))
    return []
