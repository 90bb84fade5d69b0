"""What the report knows about a run: the JSON of its artifacts as pydantic models, and the run put together.

The models of artifact files read what the stages write and ignore fields they do not know, so that a report can be
made of an older or newer run; a field of the wrong type is an error that names it.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, AliasGenerator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from ippo_trainer.contract.spec import Decision
from ippo_trainer.data.counts import Ended
from ippo_trainer.evaluation.comparisons import Comparisons
from ippo_trainer.evaluation.groups import GroupValues
from ippo_trainer.report.log_sections import LogAccount

Z95 = 1.96
_Row = TypeVar("_Row")
Rows = Annotated[list[_Row], BeforeValidator(lambda value: value or [])]
"""Where null stands for none."""
Label = Annotated[str, BeforeValidator(str)]
"""Of a turn, which is counted, or of a stage, which has a name."""


def _either_case(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


class Read(BaseModel):
    """Takes snake_case and camelCase, ignores unknown fields."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=_either_case),
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


class Estimate(Read):
    """A mean and its confidence interval, clustered by conversation."""

    estimate: float
    low: float | None = None
    high: float | None = None


def _as_estimate(value: object) -> object:
    return {"estimate": value} if isinstance(value, int | float) else value


EstimateOrNumber = Annotated[Estimate, BeforeValidator(_as_estimate)]


class Bounds(Read):
    """The least and the most that a mean over all conversations can be, whatever became of the censored ones."""

    low: float
    high: float


class LossRow(Read):
    """Value lost against the optimum at one turn (counted from 0) or one stage, in units of value."""

    label: Label = Field(validation_alias=AliasChoices("turn", "stage"))
    loss: float


class MixRow(Read):
    """The shares of the intents of a policy's suggestions in one stage of the conversation; they sum to 1."""

    stage: Label
    shares: dict[str, float]


class Exact(Read):
    """A policy scored against the exact solution of its environment (performance-difference estimate)."""

    value: float
    standard_error: float | None = None
    success: float | None = None
    success_error: float | None = None
    share_of_optimum: float | None = None
    optimum: float | None = None
    loss_by_turn: Rows[LossRow] = []
    loss_by_stage: Rows[LossRow] = []
    intent_mix: Rows[MixRow] = []


class PolicyScore(Read):
    """One policy of an evaluation."""

    digest: str = ""
    conversations: int = 0
    success: Estimate
    value: Estimate
    censored: int = 0
    unseen: float = 0.0
    """Share whose ends nobody could see, which the weights do not make up for."""
    success_bounds: Bounds | None = None
    value_bounds: Bounds | None = None
    acceptance: EstimateOrNumber | None = None
    edited: EstimateOrNumber | None = None
    abstention: EstimateOrNumber | None = None
    length: EstimateOrNumber | None = None
    kl: EstimateOrNumber | None = None
    exact: Exact | None = None

    @property
    def best_value(self) -> Estimate:
        """The value: by exact scoring where there is one, with its 95% interval, else from the rollouts' returns."""
        return self.value if self.exact is None else _around(self.exact.value, self.exact.standard_error)

    @property
    def best_success(self) -> Estimate:
        """The success: by exact scoring where it has an error, else from the rollouts."""
        exact = self.exact
        if exact is None or exact.success is None or exact.success_error is None:
            return self.success
        return _around(exact.success, exact.success_error)


def _around(middle: float, error: float | None) -> Estimate:
    half = None if error is None else Z95 * error
    low, high = (None, None) if half is None else (middle - half, middle + half)
    return Estimate(estimate=middle, low=low, high=high)


class Reference(Read):
    """A known policy of the environment, scored exactly: optimum, myopic, base, …"""

    name: str
    value: float
    success: float


class Evaluation(Read):
    """evaluation/metrics.json: candidate and current policy on the same seeds."""

    candidate: PolicyScore
    current: PolicyScore
    confidence: float = 0.95
    lift: Estimate | None = None
    decision: Decision | None = None
    references: Rows[Reference] = []


class TranscriptTurn(Read):
    """One turn of a transcript. `suggestion` is None where the policy abstained."""

    customer: str
    suggestion: str | None = None
    reaction: str = ""
    sent: str = ""
    tools: list[str] = []
    """What tools had returned."""


class Transcript(Read):
    """One evaluation conversation. Its text is untrusted."""

    seed: int | str
    outcome: bool
    turns: list[TranscriptTurn]
    context: str = ""
    """What the agent was given besides the dialogue."""


class Transcripts(Read):
    """evaluation/transcripts.json: a few conversations of both policies on the same seeds."""

    candidate: list[Transcript] = []
    current: list[Transcript] = []


def _finite_numbers(rows: object) -> object:
    """Training curves keep what can be drawn: a metric that is text, missing or not finite is a gap in its line."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return rows
    return [{k: v for k, v in row.items() if isinstance(v, int | float) and math.isfinite(v)} for row in rows]


Curves = Annotated[list[dict[str, float]], BeforeValidator(_finite_numbers)]


class Bin(Read):
    """Mean prediction and observed mean return of some held-out turns, with its interval."""

    predicted: float
    observed: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    turn: int | None = None


class LikenessFigures(Read):
    """How like the exact Q the fitted one is."""

    error: float
    correlation: float | None = None


class ExactComparison(Read):
    """The fitted Q beside the exact one: on what was suggested, and on every intent."""

    suggestions: LikenessFigures = Field(validation_alias=AliasChoices("suggestions", "made"))
    intents: LikenessFigures = Field(validation_alias=AliasChoices("intents", "every"))
    """Until release 0.3 they were called `made` and `every`."""


class CensoredLog(Read):
    """How many logged conversations were still open, and what success may be whatever became of them."""

    conversations: int
    censored: int
    unseen: float = 0.0
    success_bounds: Bounds | None = None


class CalibrationFigures(Read):
    """q/calibration.json: how good the fitted Q is on held-out conversations."""

    log_loss: float | None = None
    log_loss_constant: float | None = None
    brier: float | None = None
    brier_constant: float | None = None
    skill: Estimate | None = None
    """Against the constant predictor: 1 - log_loss / log_loss_constant."""
    action_skill: Estimate | None = None
    """Against the model's own value of the state: what knowing the suggestion adds."""
    slope: Estimate | None = None
    """Of the returns on the predictions. Until release 0.2 there was none, and skill decided alone."""
    calibration_error: float | None = None
    miscalibration: EstimateOrNumber | None = Field(
        default=None, validation_alias=AliasChoices("miscalibration", "eps_q")
    )
    """Until release 0.2 it was called `eps_q`, and had no interval."""
    exact: ExactComparison | None = None
    censoring: CensoredLog | None = None
    calibration: list[Bin] = []
    bins: list[Bin] = []
    curves: Curves = []


class Training(Read):
    """policy/training.json: one row of metrics per update."""

    kind: str = ""
    curves: Curves = []


@dataclass(frozen=True)
class Artifact:
    """A published artifact of one stage: what it is and what went into it."""

    stage: str
    key: str
    digest: str
    inputs: dict[str, str]
    """Name of each input → its digest."""


@dataclass(frozen=True)
class Cycle:
    """One iteration as far as it got. Iteration 0 is the warm start."""

    iteration: int
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By stage name, e.g. `fit-q`."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """The few figures of each stage's result, by stage name."""
    messages: dict[str, str] = field(default_factory=dict)
    """What each stage said of its result, by stage name."""
    warnings: list[str] = field(default_factory=list)
    """What its stages found worth a warning though their results stand, each after the stage's name."""
    calibration: CalibrationFigures | None = None
    informative: bool | None = None
    training: Training | None = None
    evaluation: Evaluation | None = None
    transcripts: Transcripts | None = None
    decision: Decision | None = None
    comparisons: Comparisons | None = None
    """Both policies' suggestions in logged states, where nobody could simulate a customer."""
    test: str = ""
    """What the A/B test of its candidate says, where there is one."""
    settled: bool | None = None
    """After a test: whether the candidate was promoted; None while that is open."""
    groups: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Of a log, by its column `group`: conversations, those that are finished, those with the outcome."""
    group_values: GroupValues | None = None
    """What the log tells of the candidate by group, where nobody could simulate a customer."""
    log: LogAccount | None = None
    """Of the log that it learnt from, where it learnt from one."""
    personas: dict[str, Ended] = field(default_factory=dict)
    """Of what was collected, by persona, "" for the policy as it is; nothing where it had no personas."""


class Standing(Read):
    """Where a run stands that does not go on by itself, as whoever carries it out says. Its text is untrusted."""

    state: str
    """Failed, Waiting, Suspended, …"""
    reason: str
    message: str
    remedy: str = ""
    stage: str = ""
    """The attempt that failed."""
    log_command: str = ""
    """Prints its whole log."""
    log: list[str] = []
    """The last lines of its log."""


@dataclass(frozen=True)
class RunReport:
    """Everything the page shows."""

    name: str
    settings: dict[str, Any]
    """The run's manifest (`metadata`, `spec`), or {} where it is not known."""
    cycles: list[Cycle]
    problems: list[str] = field(default_factory=list)
    """What could not be read, in words; the page shows it at the top."""
    standing: Standing | None = None
    """None of a run that goes on or has ended well."""

    def setting(self, path: str) -> Any:
        """A field of the run's settings, e.g. `setting("improve.klTarget")`; None where it is not set."""
        value: Any = self.settings.get("spec")
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def environment(self) -> str:
        """The simulator's name, or empty."""
        return str(self.setting("collect.simulate.environment.name") or "")

    @property
    def planned_cycles(self) -> int | None:
        """How many cycles the run's manifest asks for at most."""
        planned = self.setting("iterations.max")
        return planned if isinstance(planned, int) else None

    @property
    def log(self) -> LogAccount | None:
        """What the log held that the run learnt from, if it learnt from one."""
        return next((cycle.log for cycle in self.cycles if cycle.log is not None), None)

    @property
    def warm_start(self) -> Cycle | None:
        """Iteration 0, if the run has one."""
        return next((cycle for cycle in self.cycles if cycle.iteration == 0), None)

    @property
    def trained(self) -> list[Cycle]:
        """Iterations 1 and up, in order."""
        return [cycle for cycle in self.cycles if cycle.iteration > 0]

    @property
    def evaluated(self) -> list[Cycle]:
        """Iterations whose candidate was evaluated, in order."""
        return [cycle for cycle in self.trained if cycle.evaluation is not None]

    def promoted(self, cycle: Cycle) -> bool:
        """Whether the cycle's candidate was deployed.

        What the next cycle deployed counts before the gate's word: an Inconclusive candidate may have been promoted by
        the run's settings or a person.
        """
        if cycle.test or cycle.evaluation is None:
            return bool(cycle.settled)
        candidate = cycle.evaluation.candidate.digest
        later = next((other for other in self.evaluated if other.iteration > cycle.iteration), None)
        if later is not None and later.evaluation is not None and candidate:
            return later.evaluation.current.digest == candidate
        return cycle.decision is not None and cycle.decision.outcome == "Promote"

    def deployed(self, cycle: Cycle) -> PolicyScore | None:
        """The score of the policy in service after the cycle.

        As the next cycle measured it on customers of its own, if there is one: the cycle's own figures helped to choose
        the policy, so they flatter it.
        """
        if cycle.evaluation is None:
            return None
        own = cycle.evaluation.candidate if self.promoted(cycle) else cycle.evaluation.current
        later = next((other.evaluation for other in self.evaluated if other.iteration > cycle.iteration), None)
        return later.current if later is not None and own.digest and later.current.digest == own.digest else own

    @property
    def any_promoted(self) -> bool:
        """Whether any candidate replaced the starting policy."""
        return any(self.promoted(cycle) for cycle in self.evaluated)

    @property
    def before(self) -> PolicyScore | None:
        """The policy the run started from, as measured in the first evaluation."""
        first = self.evaluated[0].evaluation if self.evaluated else None
        return first.current if first else None

    @property
    def after(self) -> PolicyScore | None:
        """The policy in service after the last evaluated cycle."""
        return self.deployed(self.evaluated[-1]) if self.evaluated else None

    @property
    def references(self) -> list[Reference]:
        """The environment's ladder, from the newest evaluation that has one."""
        ladders = (cycle.evaluation.references for cycle in reversed(self.evaluated) if cycle.evaluation)
        return next((rows for rows in ladders if rows), [])
