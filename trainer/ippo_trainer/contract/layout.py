"""Where things are in the artifact store. Keys are relative to the run's own folder."""

import re

from ippo_trainer.contract.errors import BadSpecError

LEDGER = "ledger.jsonl"
SNAPSHOT = "snapshot.json"
ENVIRONMENT = "environment.json"
FOLDERS = {"warm-start": "policy", "collect": "collect", "fit-q": "q", "improve": "policy", "evaluate": "evaluation"}
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,254}")


def check_key(key: str) -> str:
    """`key`, if it is a safe relative key. Raises BadSpecError on path traversal, absolute paths and odd characters."""
    segments = key.split("/")
    if not key or len(key) > 900 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise BadSpecError(
            f"artifact key {key!r} is not allowed",
            "Use segments of letters, digits, '.', '_', '=' and '-' joined by '/', none starting with a dot.",
        )
    return key


def stage_key(iteration: int, stage: str, collection: int | None = None) -> str:
    """The folder of one stage of one iteration, e.g. `iterations/0003/q` for fit-q. Iteration 0 is the warm start.

    `collection` is a StageSpec's: what comes of the second one is at `collect-2` and `q-2`.
    """
    suffix = f"-{collection}" if collection is not None else ""
    return check_key(f"iterations/{iteration:04d}/{FOLDERS[stage]}{suffix}")


def result_key(iteration: int, stage: str, shard: int | None = None, collection: int | None = None) -> str:
    """The stage's `result.json`, or that of one shard of a sharded stage."""
    folder = stage_key(iteration, stage, collection)
    return f"{folder}/result.json" if shard is None else f"{folder}/shards/{shard:05d}/result.json"


def checkpoint_key(iteration: int, stage: str) -> str:
    """The folder that holds a stage's checkpoints while it runs."""
    return f"{stage_key(iteration, stage)}/checkpoint"
