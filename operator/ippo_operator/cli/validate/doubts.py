"""What the schema takes and hardly anybody means: told by `ippo validate`, refused nowhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.contract.model import Model
from ippo_trainer.contract.personas import Persona

from ippo_operator.api.idle import manifest_path, section_of
from ippo_operator.api.problems import Problem, dotted, shown
from ippo_operator.api.resource import RunSpec
from ippo_operator.plan import approval, canary

_FEWEST = 100
"""Conversations of an evaluation, below which an interval is as wide as anything that it could show."""
_LONGEST = 365 * 86_400
_LIKELIEST = 0.2
"""Probability of an error that somebody may want to accept."""


@dataclass(frozen=True)
class Doubt:
    """A field whose value can hardly be meant."""

    path: str
    """Below spec, by names in Python."""
    doubtful: Callable[[Any, RunSpec], bool]
    """Of the value, where there is one, and the spec."""
    why: str


TABLE = (
    Doubt("improve.kl_coefficient", lambda value, _: float(value) < 0, "a negative weight pays for leaving the policy"),
    Doubt("evaluate.gate.min_lift", lambda value, _: float(value) >= 1, "a lift is below 1, so no candidate passes"),
    Doubt(
        "evaluate.conversations",
        lambda value, spec: value < _FEWEST and spec.collect.simulate is not None,
        "so few conversations decide nothing: intervals are wider than any lift",
    ),
    Doubt(
        "collect.logged.max_conversations",
        lambda value, spec: spec.collect.logged is not None and value < spec.collect.logged.min_conversations,
        "an iteration waits for minConversations, which are more, and learns from these alone",
    ),
    Doubt(
        "collect.logged.outcome_window",
        lambda value, _: window_seconds(value) > _LONGEST,
        "in more than a year nobody knows that a conversation has no outcome",
    ),
    Doubt(
        "serve.replicas",
        lambda value, spec: value == 0 and spec.collect.logged is not None,
        "without servers the gateway answers 503, and nothing is collected",
    ),
    Doubt(
        "collect.logged.outcome_window",
        lambda value, spec: (
            approval.tested(spec) and window_seconds(canary.settings(spec).max_duration) <= window_seconds(value)
        ),
        "an A/B test is over by then: give serve.canary.maxDuration more, or report conversations without an outcome",
    ),
    Doubt(
        "serve.canary.level",
        lambda value, _: float(value) > _LIKELIEST,
        "it is the probability of promoting a candidate that is no better, such as 0.05",
    ),
    Doubt(
        "serve.canary.guard_rails.latency",
        lambda value, _: float(value) < 1,
        "a candidate that is as fast as the active policy ends its test",
    ),
    *(
        Doubt(
            f"promotion.{answer}",
            lambda value, spec: value > spec.iterations.max,
            "the run has no such iteration: see iterations.max",
        )
        for answer in ("approve", "reject")
    ),
)
_UNVARIED = Persona(name="x", share="0").model_dump(exclude={"name", "share"})


def problems(spec: RunSpec) -> Iterator[Problem]:
    """The values of this spec that can hardly be meant."""
    for doubt in TABLE:
        place, _, field = doubt.path.rpartition(".")
        value = getattr(section_of(spec, place), field, None)
        if value is not None and doubt.doubtful(value, spec):
            yield Problem(manifest_path(doubt.path), f"given {shown(value)}; {doubt.why}")
    yield from _personas(spec)
    yield from _empty(("spec",), spec)


def _personas(spec: RunSpec) -> Iterator[Problem]:
    for where in ("simulate", "logged"):
        for number, persona in enumerate(getattr(getattr(spec.collect, where), "personas", None) or ()):
            path = f"spec.collect.{where}.personas[{number}]"
            if persona.model_dump(exclude={"name", "share"}) == _UNVARIED:
                yield Problem(path, f"{persona.name} varies nothing: give instructions, temperature or minP")
            if float(persona.share) == 0:
                yield Problem(f"{path}.share", f'given "{persona.share}"; {persona.name} gets no conversation')


def _empty(location: tuple[str | int, ...], section: Model) -> Iterator[Problem]:
    """Sections whose name is there and nothing behind it."""
    for name, field in type(section).model_fields.items():
        value, where = getattr(section, name), (*location, field.alias or name)
        if isinstance(value, Model):
            yield from _empty(where, value)
        elif value is None and name in section.model_fields_set and _is_section(field.annotation):
            yield Problem(dotted(where), "is empty, which is as if it were left out; for its defaults write {}")


def _is_section(annotation: Any) -> bool:
    return any(isinstance(each, type) and issubclass(each, Model) for each in getattr(annotation, "__args__", ()))
