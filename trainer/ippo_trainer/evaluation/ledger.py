"""The ledger: one line per iteration that says what went in and what came out."""

import json
from typing import Any

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import LEDGER
from ippo_trainer.contract.spec import Decision, StageSpec
from ippo_trainer.store.base import ObjectNotFoundError, Store


def read_ledger(store: Store) -> list[dict[str, Any]]:
    """All lines, by iteration. Raises BadDataError that names a damaged line."""
    try:
        text = store.read(LEDGER).decode()
    except ObjectNotFoundError:
        return []
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
            int(value["iteration"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadDataError(f"{store.describe(LEDGER)}, line {number} is damaged", "Delete the line.") from error
        lines.append(value)
    return sorted(lines, key=lambda value: int(value["iteration"]))


def record(store: Store, spec: StageSpec, metrics: dict[str, float], decision: Decision) -> None:
    """Writes the line of an evaluation."""
    inputs = {name: ref.digest for name, ref in spec.inputs.items()}
    line = {"iteration": spec.iteration, "inputs": inputs, "metrics": metrics, "decision": decision.model_dump()}
    write_line(store, line)


def write_line(store: Store, line: dict[str, Any]) -> None:
    """Puts `line` in the place of its iteration's, keeping all others. Evaluations of a run never overlap."""
    lines = [other for other in read_ledger(store) if other["iteration"] != line["iteration"]]
    lines = sorted([*lines, line], key=lambda value: int(value["iteration"]))
    store.put(LEDGER, b"".join(canonical_json(value) + b"\n" for value in lines))
