"""Where things are in the artifact store. Keys are relative to the run's own folder."""

import re

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.stages import BY_NAME, StageName

LEDGER = "ledger.jsonl"
ENVIRONMENT = "environment.json"
BASE = "iterations/0000/base"
"""Folder of the base that a run's adapters belong to, put there by the warm start."""
SERVED = "served"
"""Folder of what servers logged: a folder for each day, and in it segments that are never changed."""
LIVE = "live"
"""Folder of what gateways logged, in segments like those of SERVED."""
# In the artifacts of stages, for reports and later stages.
TRAINING = "training.json"
CALIBRATION = "calibration.json"
METRICS = "metrics.json"
TRANSCRIPTS = "transcripts.json"
UNSIMULATED = "unsimulated.json"
COMPARISONS = "comparisons.json"
GROUPS = "groups.json"
LOG = "log.json"
"""What a history holds, and what is worth a look in it."""
SEGMENT = "[A-Za-z0-9][A-Za-z0-9._=-]{0,254}"
"""A part of a key, between two slashes."""
SEGMENTS = "segments of letters, digits, '.', '_', '=' and '-' joined by '/', none starting with a dot"


def check_key(key: str) -> str:
    """`key`, if it is a safe relative key. Raises BadSpecError on path traversal, absolute paths and odd characters."""
    if not is_key(key):
        raise BadSpecError(f"artifact key {key!r} is not allowed", f"Use {SEGMENTS}.")
    return key


def is_key(key: str) -> bool:
    """Whether `check_key` takes it."""
    return 0 < len(key) <= 900 and all(re.fullmatch(SEGMENT, segment) for segment in key.split("/"))


def artifact_key(folder: str, digest: str) -> str:
    """The folder of an artifact below its stage's: named after the first 16 hex digits of its digest."""
    return f"{folder}/{digest.removeprefix('sha256:')[:16]}"


def stage_key(iteration: int, stage: StageName, shard: int | None = None, collection: int | None = None) -> str:
    """The folder of one stage of one iteration, e.g. `iterations/0003/q` for fit-q. Iteration 0 is the warm start.

    `collection` is a StageSpec's: what comes of the second one is at `collect-2` and `q-2`. Below it, a sharded stage
    has a folder for each shard.
    """
    suffix = f"-{collection}" if collection is not None else ""
    folder = f"iterations/{iteration:04d}/{BY_NAME[stage].folder}{suffix}"
    return check_key(folder if shard is None else f"{folder}/shards/{shard:05d}")


def result_key(iteration: int, stage: StageName, shard: int | None = None, collection: int | None = None) -> str:
    """The stage's `result.json`, or that of one shard of a sharded stage."""
    return f"{stage_key(iteration, stage, shard, collection)}/result.json"
