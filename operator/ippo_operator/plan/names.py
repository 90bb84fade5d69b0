"""Names of children: a function of the run, the iteration, the stage and the attempt, at most 63 characters."""

import hashlib

MAX_RUN_PART = 29  # a pod of an Indexed Job is called <job>-<index>, and that must be a host name too
_MAX_NAME = 63
MAX_SET_NAME = 52
"""Of a StatefulSet: its pods have a label of its name and a hash."""
GATEWAY = "gateway"
CANDIDATE = "candidate"


def job_name(run: str, uid: str, iteration: int, stage: str, attempt: int) -> str:
    """`<run, at most 29>-i<iteration>-<stage>-a<attempt>-<8 hex>`.

    The hash covers the whole name and the UID: neither a run with the same beginning nor a namesake that was deleted
    shares a child's name.
    """
    identity = "/".join([uid, run, str(iteration), stage, str(attempt)])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{run[:MAX_RUN_PART].rstrip('-')}-i{iteration}-{stage}-a{attempt}-{digest}"


def companion_name(run: str, kind: str, longest: int = _MAX_NAME) -> str:
    """`<run>-<kind>`: of what a run has beside its servers. A run's name that leaves no room is cut and gets a hash, so
    that two of the same beginning share no name."""
    whole = f"{run}-{kind}"
    if len(whole) <= longest:
        return whole
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"{run[: longest - len(kind) - 10].rstrip('-')}-{digest}-{kind}"
