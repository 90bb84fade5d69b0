"""Whether a restored run may go on in the folder that its status names: no two runs that are there share one."""

from collections.abc import Sequence
from typing import Any

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.resources import RUNS
from ippo_operator.plan import folders

LOOK_AGAIN = 60.0
"""Seconds: no event of this run tells that the other one is gone."""


async def problem(client: Client, namespaces: Sequence[str], run: IterativePPORun) -> str | None:
    """Why the run may not use its folder; None where it may, as all that were never restored.

    Of several restored from one backup the first that was made goes on. A folder has its run's name in it, so only
    namesakes in other namespaces are asked for.

    Args:
        client: reads.
        namespaces: that this operator sees; none for all.
        run: as the server has it.

    Raises:
        ApiError: the API server refused, or could not be reached.
    """
    wrong = folders.problem(run)
    if wrong is not None or not folders.restored(run):
        return wrong
    place = _own_place(run)
    everywhere: tuple[str | None, ...] = (None,)

    def rival(other: Manifest) -> str | None:
        clash = _place(other) == place and _before(other, run)
        return str(other["metadata"]["namespace"]) if clash else None

    for namespace in tuple(namespaces) or everywhere:
        for where in await client.list(RUNS, namespace, fields=f"metadata.name={run.metadata.name}", keep=rival):
            return (
                f"the artifacts in {place[-1]} are those of the run {run.metadata.name} in namespace {where} too, "
                "and no two runs may write there. Delete one of the two; this one goes on once the other is gone"
            )
    return None


def _own_place(run: IterativePPORun) -> tuple[str, ...]:
    s3 = run.spec.artifacts.s3 if run.spec.artifacts is not None else None
    return (s3.bucket, s3.prefix.strip("/"), folders.folder(run)) if s3 is not None else ()


def _place(raw: Manifest) -> tuple[str, ...]:
    s3 = _section(raw, "spec", "artifacts", "s3")
    own = folders.own_folder(raw["metadata"]["name"], raw["metadata"]["uid"])
    folder = _section(raw, "status", "artifacts").get("folder") or own
    return str(s3.get("bucket")), str(s3.get("prefix") or "").strip("/"), str(folder)


def _before(other: Manifest, run: IterativePPORun) -> bool:
    """Whether the folder is rather the other one's: it writes there already, or was made first."""
    metadata = other["metadata"]
    if metadata["uid"] == run.metadata.uid:
        return False
    writes = _section(other, "status", "artifacts").get("owner") in {None, metadata["uid"]}
    own = (str(run.metadata.creation_timestamp), run.metadata.uid)
    return writes or (str(metadata["creationTimestamp"]), str(metadata["uid"])) < own


def _section(raw: Manifest, *path: str) -> dict[str, Any]:
    section: Any = raw
    for name in path:
        section = (section or {}).get(name)
    return section if isinstance(section, dict) else {}
