"""Fields that a run does not read, by what else its spec says.

They are told, not refused: a spec cannot change once its run has started, so a rule that comes with an upgrade would
leave such a run no way on. `ippo validate` notes each, and the run tells of them in an event when it begins.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.algorithms import ALGORITHMS, Holdings
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.stages import EVALUATE, IMPROVE
from pydantic.alias_generators import to_camel

from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import RunSpec


@dataclass(frozen=True)
class Idle:
    """Fields of a section, and when they have no effect."""

    section: str
    """Its path below spec, by names in Python."""
    fields: tuple[str, ...]
    idle: Callable[[RunSpec], bool]
    when: Callable[[RunSpec], str]
    """The reason, in words."""
    remedy: str
    """What would read them."""

    def problems(self, spec: RunSpec) -> Iterator[Problem]:
        """One for each field that says something else than if it were left out."""
        section = section_of(spec, self.section)
        if section is None or not self.idle(spec):
            return
        path = manifest_path(self.section)
        for field in self.fields:
            value = getattr(section, field)
            if value != type(section).model_fields[field].default:
                text = f"given {shown(_json(value))}, which has no effect {self.when(spec)}; {self.remedy}"
                yield Problem(f"{path}.{to_camel(field)}", text)


def manifest_path(path: str) -> str:
    """A path below spec, by names in Python, as a manifest has it."""
    return ".".join(["spec", *map(to_camel, path.split("."))])


def section_of(spec: RunSpec, path: str) -> Model | None:
    """The section at such a path; None where it, or one above it, is left out."""
    section: Model | None = spec
    for name in path.split("."):
        section = None if section is None else getattr(section, name)
    return section


def _json(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, Model) else value


def _always(words: str) -> Callable[[RunSpec], str]:
    return lambda spec: words


def _by_algorithm(fields: tuple[str, ...], reads: Callable[[Holdings], bool]) -> Idle:
    names = [name for name, holdings in ALGORITHMS.items() if reads(holdings)]
    return Idle(
        IMPROVE,
        fields,
        lambda spec: _algorithm(spec) not in names,
        lambda spec: f"with algorithm {_algorithm(spec)}",
        f"leave it out, or set improve.algorithm to {', '.join(names[:-1])} or {names[-1]}",
    )


def _algorithm(spec: RunSpec) -> str:
    return spec.improve.chosen(spec.collect.simulate)


def _explores(spec: RunSpec) -> bool:
    simulate = spec.collect.simulate
    return simulate is not None and float(simulate.exploration) > 0


def _by_gradient(spec: RunSpec) -> bool:
    return spec.fit_q.resolved().last_layer == "Gradient"


_POLICY_FIELDS = ("updates", "batch_size", "epochs", "minibatches", "learning_rate", "kl_coefficient")
TABLE = (
    _by_algorithm(
        (*_POLICY_FIELDS, "clip_range", "clip_range_high", "entropy_coefficient"),
        lambda each: each.critic or not each.own_loop,
    ),
    _by_algorithm(("critic_learning_rate", "critic_warmup_updates", "gae_lambda"), lambda each: each.critic),
    _by_algorithm(("mpo",), lambda each: each.explorer),
    Idle(
        "fit_q",
        ("ranks", "folds", "ridge", "earlier_iterations"),
        _by_gradient,
        lambda spec: f"with {'lastLayer Gradient' if spec.fit_q.method is None else f'method {spec.fit_q.method}'}",
        "leave it out, or have lastLayer LeastSquares",
    ),
    Idle(
        "fit_q",
        ("max_foreign",),
        lambda spec: spec.fit_q.method in ("SARSA", "ExpectedSARSA"),
        lambda spec: f"with method {spec.fit_q.method}, which learns from others' turns",
        "leave it out, or set fitQ.method to MonteCarlo",
    ),
    Idle(
        "fit_q",
        ("max_collections",),
        lambda spec: spec.fit_q.on_uninformative != "CollectMore",
        _always("without onUninformative CollectMore"),
        "leave it out, or set fitQ.onUninformative",
    ),
    Idle(
        "collect.simulate",
        ("exploration_decay",),
        lambda spec: not _explores(spec),
        _always('with exploration "0"'),
        "leave it out, or set collect.simulate.exploration",
    ),
    Idle(
        "collect.simulate",
        ("exploration_temperature", "exploration_min_p"),
        lambda spec: not _explores(spec) and not ALGORITHMS[spec.improve.chosen(spec.collect.simulate)].explorer,
        lambda spec: f'with exploration "0" and algorithm {_algorithm(spec)}: there is no explorer',
        "leave it out, or set collect.simulate.exploration",
    ),
    Idle(
        "warm_start",
        ("writers",),
        lambda spec: spec.warm_start is not None and spec.warm_start.conversations is None,
        _always("with demonstrations"),
        "leave it out, or give warmStart.conversations",
    ),
    Idle(
        "gateway",
        ("journal_volume",),
        lambda spec: spec.artifacts is None,
        _always("without artifacts.s3: the journal is in the run's folder"),
        "leave it out",
    ),
    Idle(
        EVALUATE,
        ("conversations",),
        lambda spec: spec.collect.simulate is None,
        _always("without collect.simulate: nobody talks to customers for it"),
        "leave it out",
    ),
    Idle(
        "evaluate.gate",
        ("metric",),
        lambda spec: spec.collect.simulate is None,
        _always("without collect.simulate: the gate goes by Q on logged states"),
        "leave it out",
    ),
    Idle(
        "serve",
        ("canary",),
        lambda spec: spec.serve is not None and spec.serve.strategy != "Canary",
        lambda spec: f"with strategy {spec.serve.strategy if spec.serve else ''}",
        "leave it out, or set serve.strategy to Canary",
    ),
    Idle(
        "report",
        ("currency",),
        lambda spec: spec.report is not None and spec.report.value_per_outcome is None,
        _always("without valuePerOutcome"),
        "leave it out, or give report.valuePerOutcome",
    ),
)
"""Which fields have no effect, and when."""


def problems(spec: RunSpec) -> list[Problem]:
    """The fields of this spec that have no effect."""
    return [problem for row in TABLE for problem in row.problems(spec)]


def in_words(spec: RunSpec) -> str:
    """All of them in one line; empty where there are none."""
    paths = [problem.path for problem in problems(spec)]
    return f"no effect in this run: {', '.join(paths)}; `ippo validate` says why" if paths else ""
