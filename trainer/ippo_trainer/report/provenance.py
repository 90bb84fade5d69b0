"""Where everything came from: settings, digests, inputs of each artifact. All pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.stages import STAGES, WARM_START
from ippo_trainer.report.model import Artifact, Cycle, RunReport
from ippo_trainer.report.words import clip, short
from ippo_trainer.store.artifact import BASE_INPUT

SHOWN = (
    "seed",
    "discount",
    "iterations",
    "environment",
    "policy",
    *(stage.field for stage in STAGES),
)
"""Sections of the settings that are shown. An allow-list: the others may hold environment variables and places."""
MAX_CYCLES = 200
MAX_SETTINGS = 200
MASK = "•••"
_SECRET = re.compile(r"(?i)secret|passw|token\b|api_?key|credential")
_USERINFO = re.compile(r"(://)[^/@\s]+@")


@dataclass(frozen=True)
class Origin:
    """One artifact and what it was made from, each input with the stage that made it where that is known."""

    stage: str
    key: str
    digest: str
    inputs: list[tuple[str, str, str]]
    """(name, short digest, maker in words)"""


def origins(run: RunReport) -> list[tuple[str, list[Origin]]]:
    """(cycle in words, its artifacts) of the newest cycles, newest first."""
    makers = {
        artifact.digest: f"{_cycle_name(cycle)}, {artifact.stage}"
        for cycle in run.cycles
        for artifact in cycle.artifacts.values()
    }
    everything = [artifact for cycle in run.cycles for artifact in cycle.artifacts.values()]
    makers |= {each.inputs[BASE_INPUT]: WARM_START for each in everything if BASE_INPUT in each.inputs}
    return [
        (_cycle_name(cycle), [_origin(artifact, makers) for artifact in cycle.artifacts.values()])
        for cycle in list(reversed(run.cycles))[:MAX_CYCLES]
        if cycle.artifacts
    ]


def _cycle_name(cycle: Cycle) -> str:
    return f"cycle {cycle.iteration}" if cycle.iteration else "warm start"


def _origin(artifact: Artifact, makers: dict[str, str]) -> Origin:
    inputs = [
        (name, short(digest), makers.get(digest, "from outside")) for name, digest in sorted(artifact.inputs.items())
    ]
    return Origin(artifact.stage, artifact.key, artifact.digest, inputs)


def settings(run: RunReport) -> list[tuple[str, str]]:
    """(dotted field, value) of the settings that decide the result. What may be a secret is masked."""
    body = run.settings.get("spec")
    if not isinstance(body, dict):
        return []
    rows = [row for section in SHOWN if section in body for row in _flat(section, body[section])]
    return [(clip(name, 200), MASK if _SECRET.search(name) else _safe(value)) for name, value in rows[:MAX_SETTINGS]]


def _safe(value: str) -> str:
    return clip(_USERINFO.sub(rf"\1{MASK}@", value), 400)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif value is not None:
        yield name, str(value)
