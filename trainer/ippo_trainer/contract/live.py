"""What the operator tells a gateway (`Routes`), what a gateway tells the operator (`LiveReport`), and the settings of
both, which a manifest has, too.

The gateway reads `Routes` from a file whenever that changes. The operator asks for the report at `REPORT_PATH` of the
gateway's internal port. Neither holds what anybody wrote.
"""

from typing import Annotated, Literal

from pydantic import Field

from ippo_trainer.contract.fields import Positive, Share, Window
from ippo_trainer.contract.lines import Line
from ippo_trainer.contract.model import Model
from ippo_trainer.contract.personas import MOST_PERSONAS, Persona
from ippo_trainer.contract.spec import MAX_ITERATION, Digest, Outcome

REPORT_PATH = "/v1/live"
REPORT_MOST = 1 << 16
"""Bytes of a report, of which whoever asks reads no more."""
JOURNAL_BYTES = 1 << 30
"""Of events on a gateway's disk that are not in the store yet, where nobody says otherwise."""
_LAST_SECOND = 253_402_300_799
"""Of the year 9999."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""At most what every JSON tool keeps exactly."""
Moment = Annotated[float, Field(ge=0, le=_LAST_SECOND, allow_inf_nan=False)]
"""Seconds since 1970 UTC."""
Difference = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
"""Of two rates."""


class GuardRails(Model):
    """What a candidate must not do worse than the active policy, beyond chance, whatever outcomes say."""

    acceptance: Share = "0.2"
    """Conversations in which all suggestions were sent as they were: at most so many fewer, as a share of all."""
    abstention: Share = "0.05"
    """Conversations with an abstention: at most so many more."""
    complaints: Share = "0.01"
    """Conversations with a complaint: at most so many more."""
    latency: Positive = "2"
    """The 95th percentile of seconds per answer: at most so many times the active policy's."""


class Canary(Model):
    """A candidate gets a share of conversations until a sequential test that is valid at every look decides."""

    share: Share = "0.1"
    """Of conversations. Where it changes in the midst of a test, that begins anew."""
    level: Share = "0.05"
    """Probability of promoting a candidate that is no better, over all looks together."""
    min_conversations: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Of the candidate, with a known outcome, before anything is decided."""
    max_conversations: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Of the candidate, with a known outcome; then the active policy stays."""
    max_duration: Window = "30d"
    """After so long the active policy stays; also where the candidate's servers were not ready for so long."""
    guard_rails: GuardRails = GuardRails()
    """What ends it at once."""


class Route(Model):
    """A policy and where it is asked."""

    digest: Digest
    url: Annotated[str, Field(max_length=512)]
    """Of an ippo-serve, without a path."""


class CanaryRoute(Model):
    """A candidate under test."""

    route: Route
    iteration: Annotated[int, Field(ge=1, le=MAX_ITERATION)]
    since: Moment
    """Conversations that began before do not count."""
    settings: Canary


class Routes(Model):
    """Which policies answer, and when a conversation counts as over."""

    schema_version: Literal[1] = 1
    run: Line
    active: Route
    canary: CanaryRoute | None = None
    personas: Annotated[tuple[Persona, ...], Field(max_length=MOST_PERSONAS)] = ()
    idle: Window
    outcome_window: Window


class ArmReport(Model):
    """Conversations of one policy without personas.

    As the active policy's (`LiveReport.active`): those that it alone answered. As a side of an A/B test
    (`LiveReport.control`, `LiveReport.candidate`): those that `live.assignment` assigned to it, whoever answered them
    in the end, of those that began since the canary did and before the first one whose outcome is not known yet
    (`live.sides`). Only so is the share of the candidate among them the canary's, whatever becomes of a conversation
    and whenever it is known.
    """

    digest: Digest
    began: Count = 0
    """Also of a test: all since it began."""
    closed: Count = 0
    """Those that are over: closed, idle, or with the outcome."""
    conversations: Count = 0
    """Those of the closed whose outcome is known: it came, or its window is over."""
    outcomes: Count = 0
    accepted: Count = 0
    """Known ones in which every suggestion was sent as it was."""
    abstained: Count = 0
    """Known ones with an abstention."""
    complaints: Count = 0
    """Known ones with a complaint."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """95th percentile of an answer; None where there was none."""


class PersonaReport(Model):
    """What exploring costs."""

    name: Annotated[Line, Field(max_length=63)]
    conversations: Count = 0
    outcomes: Count = 0


class CanaryVerdict(Model):
    """Of the sequential test on a canary; `outcome` None goes on."""

    digest: Digest
    """Of the candidate."""
    since: Annotated[float, Field(ge=0)]
    """Of the test, as in the routes: what is told of another test of the same candidate does not count."""
    outcome: Outcome | None = None
    reason: Annotated[Line, Field(max_length=512)] = ""
    """In words, with figures."""
    lift: Difference = 0.0
    """Outcomes per conversation, candidate less active."""
    low: Difference = -1.0
    high: Difference = 1.0
    """Bounds of the lift that hold at every look."""


class LiveReport(Model):
    """What is known of live conversations, of all replicas, as far as it is in the store."""

    schema_version: Literal[1] = 1
    time: Moment
    """When it was counted."""
    active: ArmReport
    """All conversations of the active policy, personas' left out."""
    usable: Count = 0
    """Known conversations that the active policy began, personas' too: what collect can learn from."""
    usable_outcomes: Count = 0
    control: ArmReport | None = None
    """The active policy's side of the canary."""
    candidate: ArmReport | None = None
    """The candidate's."""
    verdict: CanaryVerdict | None = None
    personas: Annotated[tuple[PersonaReport, ...], Field(max_length=MOST_PERSONAS)] = ()
