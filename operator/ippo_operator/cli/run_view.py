"""A run as its user sees it, in a folder or in a cluster: phase, reason, message and remedy."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from ippo_operator.api.reasons import ConditionType, Reason
from ippo_operator.api.status import Condition, RunStatus
from ippo_operator.cli.errors import CommandError

ShownPhase = Literal["Pending", "Running", "Waiting", "Suspending", "Suspended", "Succeeded", "Failed", "Terminating"]
"""The planner's phases, fewer and in a user's words."""
_MOST_UNKNOWN_FIELDS = 64
_OPERATOR_DELAY = 30
"""Seconds after which a run that no operator has looked at is a trouble."""


@dataclass(frozen=True)
class RunView:
    """A run as it was read."""

    raw: dict[str, Any]
    status: RunStatus
    argument: str
    """What a command line calls the run: its name, or its folder."""

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Of the run."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def spec(self) -> dict[str, Any]:
        """As the API server has it."""
        spec: dict[str, Any] = self.raw.get("spec") or {}
        return spec

    @property
    def observed(self) -> bool:
        """Whether the operator has answered the newest change of the spec."""
        return self.status.observed_generation >= int(self.raw["metadata"].get("generation", 1))

    @property
    def phase(self) -> ShownPhase:
        """Where the run stands, by what its status says: the operator may be of another version."""
        if "deletionTimestamp" in self.raw["metadata"]:
            return "Terminating"
        status = self.status
        if status.is_true("Succeeded") and not status.is_true("Reconciling"):
            return "Succeeded"
        if status.is_true("Stalled"):
            return "Failed"
        if status.is_true("Suspended"):
            return "Suspended"
        reason = self.reason
        if reason == Reason.SUSPENDING:
            return "Suspending"
        if status.active is None and reason not in {None, Reason.STAGE_RUNNING, Reason.ROLLING_OUT}:
            return "Waiting"
        return "Running" if status.attempt or status.iterations else "Pending"

    @property
    def ended(self) -> bool:
        """Nothing more happens until the spec changes; the operator has answered its newest change."""
        return self.phase in {"Succeeded", "Failed"} and self.observed

    @property
    def well(self) -> bool:
        """The run is not stalled, neither in its work nor in what it serves."""
        return not self.status.is_true("Stalled")

    @property
    def condition(self) -> Condition | None:
        """The condition that says why the run is where it is; None before the operator has looked at the run."""
        kinds: tuple[ConditionType, ...] = ("Stalled", "Suspended", "Reconciling")
        first: ConditionType = next((kind for kind in kinds if self.status.is_true(kind)), "Ready")
        return self.status.condition(first)

    @property
    def reason(self) -> Reason | None:
        """None before the operator has looked at the run."""
        return self.condition.reason if self.condition is not None else None

    @property
    def limit(self) -> int:
        """spec.iterations.max; 0 in a spec without."""
        return int((self.spec.get("iterations") or {}).get("max") or 0)

    @property
    def age(self) -> float:
        """Seconds since the run was created."""
        return (now() - datetime.fromisoformat(self.raw["metadata"]["creationTimestamp"])).total_seconds()

    @property
    def message(self) -> str:
        """A sentence."""
        if self.condition is not None:
            return self.condition.message
        text = "no operator has looked at the run yet"
        if self.age < _OPERATOR_DELAY:
            return text
        where = "kubectl get pods -A -l app.kubernetes.io/name=ippo-operator"
        return f"{text}: see that one is at work ({where}) and that it watches this namespace"


def cluster_view(raw: dict[str, Any]) -> RunView:
    """A run as the API server has it, also one that a newer operator wrote more into than this version knows.

    Raises:
        CommandError: the status means something else than this version knows.
    """
    status = json.loads(json.dumps(raw.get("status") or {}, ensure_ascii=False).encode(errors="replace"))
    for _ in range(_MOST_UNKNOWN_FIELDS):
        try:
            parsed = RunStatus.model_validate_json(json.dumps(status), by_alias=True, by_name=False)
            return RunView(raw, parsed, str(raw["metadata"]["name"]))
        except ValidationError as error:
            unknown = [e["loc"] for e in error.errors(include_url=False) if e["type"] == "extra_forbidden"]
            if not unknown:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                text = f"status.{where}: {first['msg']}; the operator is of another version, take the ippo of that one"
                raise CommandError(text) from None
        for place in unknown:
            _remove(status, place)
    raise CommandError("the run's status is of another version; take the ippo of the operator's version")


def _remove(document: Any, place: tuple[int | str, ...]) -> None:
    for part in place[:-1]:
        document = document[part]
    del document[place[-1]]


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)
