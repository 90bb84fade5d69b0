"""One run of a cluster, in words and as JSON, and how far its running stage is."""

from datetime import datetime
from typing import Any

from ippo_operator.api.reasons import EXPLANATIONS
from ippo_operator.api.status import LastFailure, ServedPolicy
from ippo_operator.cli.remote.view import View, now
from ippo_operator.cli.tables import iterations_json, iterations_table, plain, warning_lines, warnings
from ippo_operator.cluster.errors import ApiError, InvalidError
from ippo_operator.cluster.remote.runs import Runs
from ippo_operator.local.watch import Progress, joined
from ippo_operator.manifests.identity import ATTEMPT, ITERATION, STAGE
from ippo_operator.plan.figures import span_in_words

_BAR = 24
_TAIL = 20
_SHARDS = 8
"""Logs of at most so many pods are read for the progress of a stage; its shards get on alike."""


def as_json(found: View) -> dict[str, Any]:
    """As `ippo status --json` of a folder, and what only a cluster has."""
    status, telling = found.status, found.telling
    return {
        "name": found.name,
        "namespace": found.namespace,
        "phase": found.phase,
        "reason": str(telling.reason) if telling is not None else None,
        "message": found.message(now()),
        "observed": found.seen,
        "progress": status.progress or f"0/{found.limit}",
        "iteration": status.iteration,
        "stage": status.stage,
        "attempt": status.attempt,
        "active": plain(status.active),
        "artifacts": plain(status.artifacts),
        "iterations": iterations_json(status.iterations),
        "warnings": warnings(status.iterations),
        "best": plain(status.best),
        "serving": plain(status.serving),
        "lastFailure": plain(status.last_failure),
        "conditions": [plain(condition) for condition in status.conditions],
    }


def progress(runs: Runs, found: View) -> Progress | str | None:
    """How far the running stage says it is: of its pods' logs. A text where they cannot be read."""
    status = found.status
    if status.active is None or status.stage is None or status.active.waits is not None:
        return None
    wanted = {ITERATION: str(status.iteration), STAGE: status.stage, ATTEMPT: str(status.attempt)}
    try:
        pods = runs.pods(found.raw, wanted)
        return joined(list(runs.log(pod, tail=_TAIL)) for pod in pods[:_SHARDS])
    except InvalidError:  # no log yet: a container has not started
        return None
    except ApiError as error:
        return f"progress is not known: {error}"


def lines(found: View, stage: Progress | str | None = None) -> list[str]:
    """All that a user may want to know of a run."""
    at = now()
    status = found.status
    done, limit = status.completed_iterations, found.limit
    head = f"{found.name}: {found.phase}, {done} of {limit} iterations done  {_bar(done / limit if limit else 0.0)}"
    text = [head, f"  {found.message(at)}"]
    if not found.seen and found.telling is not None:
        text.append("  the operator has not looked at the newest change of the spec yet")
    text += _doing(found, stage, at)
    text += _remedy(found)
    table = iterations_table(status.iterations)
    text += ["", *table] if table else []
    text += warning_lines(status.iterations)
    text += _serving(found, at)
    return text + _failure(found, status.last_failure, at)


def _doing(found: View, stage: Progress | str | None, at: datetime) -> list[str]:
    active = found.status.active
    if active is None:
        return []
    text = [f"  for {span_in_words((at - active.created_at).total_seconds())}, in job {active.job_name}"]
    if active.waits is not None:
        text.append(f"  waits: {active.waits.reason}")
    elif isinstance(stage, Progress):
        text.append(f"  {stage.what}: {_bar(stage.share)} {stage.done}/{stage.total} {stage.rest}")
    elif stage is not None:
        text.append(f"  {stage}")
    return text


def _remedy(found: View) -> list[str]:
    told = EXPLANATIONS.get(found.reason) if found.reason is not None else None
    if told is None or told.recovery == "Fine":
        return []
    return [f"  what to do ({found.reason}): {told.remedy.replace('NAME', found.name)}"]


def _serving(found: View, at: datetime) -> list[str]:
    serving = found.status.serving
    if serving is None:
        return []
    text = ["", f"serving: {_policy(serving.active)}" if serving.active is not None else "serving: nothing yet"]
    if serving.target is not None and not serving.target.same(serving.active):
        text.append(f"  rolling out: {_policy(serving.target)}")
    if serving.since is not None:
        text.append(f"  waiting for its servers for {span_in_words((at - serving.since).total_seconds())}")
    troubles = (serving.waits, serving.blocked, serving.failed)
    return text + [f"  {trouble.reason}: {trouble.message}" for trouble in troubles if trouble is not None]


def _policy(policy: ServedPolicy) -> str:
    return f"the policy of iteration {policy.iteration} ({policy.digest.removeprefix('sha256:')[:12]})"


def _failure(found: View, failure: LastFailure | None, at: datetime) -> list[str]:
    if failure is None:
        return []
    ago = span_in_words((at - failure.time).total_seconds())
    where = f"{failure.stage} of iteration {failure.iteration}, attempt {failure.attempt}"
    remedy = EXPLANATIONS[failure.reason].remedy.replace("NAME", found.name)
    text = ["", f"last failure: {where}, {ago} ago", f"  {failure.reason}: {failure.message}"]
    return [*text, f"  what to do: {remedy}"]


def _bar(share: float) -> str:
    filled = round(min(1.0, share) * _BAR)
    return "█" * filled + "░" * (_BAR - filled)
