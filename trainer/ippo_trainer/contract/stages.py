"""The stages of an iteration: the one table of what they are called, read, publish and may be set."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pydantic.alias_generators import to_camel

StageName = Literal["warm-start", "collect", "fit-q", "improve", "evaluate"]
WARM_START: Final = "warm-start"
COLLECT: Final = "collect"
FIT_Q: Final = "fit-q"
IMPROVE: Final = "improve"
EVALUATE: Final = "evaluate"
HISTORY: Final = "history"
"""A section of collect's in a manifest, and of all stages of the iteration that it is for."""

LOGGED: Final = "logged"
"""A section of collect's in a manifest: conversations come from the run's gateway."""

EARLIER_DATA: tuple[str, ...] = ("earlierData1", "earlierData2", "earlierData3")
"""Inputs of fit-q: what the iterations before collected, the last one first."""


@dataclass(frozen=True)
class Stage:
    """What is known of a stage before it runs."""

    name: StageName
    summary: str
    """What it does, in a line."""
    artifact: str
    """The artifact that its result names: its key in `StageResult.artifacts`, and its kind."""
    folder: str
    """Where that is, below the iteration's folder."""
    inputs: tuple[str, ...] = ()
    """Artifacts that it reads, by their names in `StageSpec.inputs`; candidate is the policy that improve made."""
    optional: tuple[str, ...] = ()
    """Those of the inputs that are not always there."""
    unsimulated: tuple[str, ...] = ()
    """More inputs, where there is no environment."""
    settings: tuple[str, ...] = ()
    """Sections of a StageSpec that it reads, besides those of all stages."""
    repeats: bool = False
    """Whether an iteration whose Q is uninformative may do it again."""

    @property
    def section(self) -> str:
        """Its own section of a StageSpec and of a run's spec.pods; also the module that runs it."""
        return self.name.replace("-", "_")

    @property
    def field(self) -> str:
        """The section's name in JSON and in a manifest."""
        return to_camel(self.section)


STAGES: tuple[Stage, ...] = (
    Stage(
        WARM_START,
        "supervised start of the policy from logged conversations",
        artifact="policy",
        folder="policy",
        settings=("warm_start",),
    ),
    Stage(
        COLLECT,
        "let the current policy talk to customers and log the turns (one shard of it), or take them from a log",
        artifact="data",
        folder="collect",
        inputs=("policy", "explorer", "data"),  # of the warm start; what this iteration collected before
        optional=("data",),
        settings=("collect", HISTORY, LOGGED),
        repeats=True,
    ),
    Stage(
        FIT_Q,
        "regress the outcomes on (history, suggestion): the Q model",
        artifact="q",
        folder="q",
        inputs=("policy", "data", "previousQ", *EARLIER_DATA),
        optional=("previousQ", *EARLIER_DATA),
        settings=("fit_q", HISTORY),
        repeats=True,
    ),
    Stage(
        IMPROVE,
        "a better policy on the logged histories by MPO, PPO or trl, Q as the reward, KL to the current policy",
        artifact="policy",
        folder="policy",
        inputs=("policy", "data", "q", "explorer"),  # whose suggestions MPO considers, too
        optional=("explorer",),
        settings=("collect", "improve", HISTORY),  # it samples as the policy is deployed, at collect's temperature
    ),
    Stage(
        EVALUATE,
        "candidate against current policy on the same seeds, and the gate's decision",
        artifact="evaluation",
        folder="evaluation",
        inputs=("policy", "candidate"),
        unsimulated=("data", "q"),
        settings=("collect", "evaluate", HISTORY),  # it samples as improve does
    ),
)
"""In the order of a run. The first makes the policy that iteration 1 begins with; the others are an iteration."""
BY_NAME: Mapping[StageName, Stage] = MappingProxyType({stage.name: stage for stage in STAGES})
NAMES: tuple[StageName, ...] = tuple(BY_NAME)
CYCLE: tuple[StageName, ...] = NAMES[1:]
