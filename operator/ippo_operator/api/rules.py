"""Rules between fields, which the schema of a single field cannot say: each of them once, in Python and in CEL.

The loader and the operator apply the Python. The API server applies the CEL, which `crd` writes into the
CustomResourceDefinition, so that `kubectl apply` refuses what breaks a rule without a webhook.
"""

import re
from collections.abc import Iterator
from functools import cache

from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import BY_TRL, WITH_ENGINE
from ippo_trainer.contract.layout import SEGMENT, SEGMENTS
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.stages import EVALUATE, IMPROVE
from ippo_trainer.contract.variables import (
    COMPLETION_INDEX,
    CREDENTIALS_FILE,
    HOME,
    PREFIX,
    SETTABLE,
    TEMPORARY,
    THREADS,
)
from pydantic.alias_generators import to_camel

from ippo_operator.api.live_rules import LIVE_RULES, OF_COLLECT, OF_RUNS
from ippo_operator.api.pods import VOLUME_SOURCES, EnvVar, PodSettings, ValueFrom, Volume
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import CollectFrom, RunSpec, Simulate
from ippo_operator.api.rule import Rule
from ippo_operator.api.run_sections import S3, Promotion
from ippo_operator.api.scheduling import Toleration

RESERVED_FOLDERS = ("ippo", "tmp", "dev")
# What follows is for Python and CEL alike, as are all patterns below.
_RESERVED_ENV = f"^({PREFIX}.*|{'|'.join((COMPLETION_INDEX, CREDENTIALS_FILE, HOME, TEMPORARY, *THREADS))})$"
_PROVIDED_MOUNT = rf"^/([.]?/)*([.]?$|({'|'.join(RESERVED_FOLDERS)})(/|$))"
"""Mount paths that are taken, in any spelling: `//ippo` and `/./ippo/` are `/ippo`."""
_CLIMBS = r"(^|/)\.\.(/|$)"
_PREFIX = f"^{SEGMENT}(/{SEGMENT})*/*$"
_OWN_KEYS = (
    r"^(([a-z0-9.-]*[.])?ippo[.]dev|kueue[.]x-k8s[.]io|batch[.]kubernetes[.]io|"
    r"(container[.])?(apparmor|seccomp)[.]security[.](alpha|beta)[.]kubernetes[.]io)/|^app[.]kubernetes[.]io/component$"
)
"""Labels and annotations by which pods are found, or that the Job controller, spec.queue or the operator's security
settings decide on."""
_TOPOLOGY_KEYS = "kueue.x-k8s.io/podset-"
"""What Kueue reads from pod templates and nobody else writes: topology and slices."""
NOT_YOURS = (
    "ippo.dev/…, kueue.x-k8s.io/… but podset-…, batch.kubernetes.io/…, app.kubernetes.io/component and security "
    "profiles are not yours to set"
)
_LONGEST_KEY = 317


def is_own_key(key: str) -> bool:
    """Whether the value of this label or annotation is not the user's."""
    return re.match(_OWN_KEYS, key) is not None and not key.startswith(_TOPOLOGY_KEYS)


def _always(section: Model) -> bool:
    """For rules that only the API server applies."""
    return True


def _exactly_one(*fields: str) -> Rule:
    names = [to_camel(field) for field in fields]

    def present(section: Model) -> list[str]:
        return [name for field, name in zip(fields, names, strict=True) if getattr(section, field) is not None]

    return Rule(
        f"allowed is exactly one of {' and '.join(names) if len(names) == 2 else ', '.join(names)}",
        f"[{', '.join(f'has(self.{name})' for name in names)}].filter(given, given).size() == 1",
        lambda section: len(present(section)) == 1,
        words=lambda section: " and ".join(present(section)) or "none",
    )


def _no_hub(field: str, what: str) -> Rule:
    """hf:// is in the schema since the first release; stages reach nothing but the store."""
    return Rule(
        f"no stage can read hf://; download the {what} and give file:// or s3://",
        f"!has(self.{field}) || !self.{field}.startsWith('hf:')",
        lambda section: not (getattr(section, field) or "").startswith("hf:"),
        field,
    )


def _no_own_keys(field: str) -> Rule:
    own = f"key.matches('{_OWN_KEYS}') && !key.startsWith('{_TOPOLOGY_KEYS}')"
    return Rule(
        NOT_YOURS,
        f"!has(self.{field}) || self.{field}.all(key, size(key) <= {_LONGEST_KEY} && !({own}))",
        lambda pods: not any(is_own_key(key) for key in getattr(pods, field)),
        field,
        words=lambda pods: ", ".join(shown(key) for key in getattr(pods, field) if is_own_key(key)),
    )


def _vllm_samples(simulate: Simulate) -> bool:
    """Whether vLLM can sample at the temperatures of a section, if it is to."""
    explores = float(simulate.exploration) > 0
    hottest = max(float(simulate.temperature), simulate.explorer_temperature if explores else 0.0)
    return simulate.sampler != "VLLM" or hottest <= params.HOTTEST


def _text(pattern: str) -> str:
    """A pattern as a text of CEL."""
    return pattern.replace("\\", "\\\\")


def _by_trl(improve: params.Improve) -> bool:
    return improve.algorithm in BY_TRL


_NOT_BY_TRL = f"!has(self.algorithm) || !(self.algorithm in {list(BY_TRL)})"
_ON_ONE_NODE = (
    "!has(self.pods) || !has(self.pods.improve) || !has(self.pods.improve.nodes) || self.pods.improve.nodes == 1"
)
RULES: dict[type[Model], tuple[Rule, ...]] = {
    RunSpec: (
        Rule(
            "is missing; a tiny: base learns its words from warmStart.conversations or warmStart.demonstrations",
            "!self.policy.base.startsWith('tiny:') || has(self.warmStart)",
            lambda spec: not spec.policy.base.startswith("tiny:") or spec.warm_start is not None,
            "warm_start",
        ),
        Rule(
            'allowed is above "0": at 0 no later outcome counts',
            "double(self.discount) > 0.0",
            lambda spec: float(spec.discount) > 0,
            "discount",
        ),
        Rule(
            "is missing; pods keep nothing, so a run in a cluster needs an S3 bucket: artifacts.s3.bucket",
            "has(self.artifacts)",
            _always,  # a run on one machine keeps them in its folder
            "artifacts",
        ),
        Rule(
            "allowed is 1 without collect.simulate and collect.logged: after collect.history nobody talks to customers",
            "has(self.collect.simulate) || has(self.collect.logged) || self.iterations.max == 1",
            lambda spec: spec.collect.talks or spec.iterations.max == 1,
            "iterations",
            words=lambda spec: f"max: {spec.iterations.max}",
        ),
        Rule(
            "demonstrations are a simulator's; without collect.simulate give warmStart.conversations",
            "has(self.collect.simulate) || !has(self.warmStart) || !has(self.warmStart.demonstrations)",
            lambda spec: (
                spec.collect.simulate is not None or spec.warm_start is None or spec.warm_start.demonstrations is None
            ),
            "warm_start",
            words=lambda spec: "demonstrations",
        ),
        Rule(
            "gate.minAcceptance needs collect.simulate: without customers nobody accepts anything",
            "has(self.collect.simulate) || !has(self.evaluate) || !has(self.evaluate.gate) || "
            "!has(self.evaluate.gate.minAcceptance)",
            lambda spec: spec.collect.simulate is not None or spec.evaluate.gate.min_acceptance is None,
            EVALUATE,
            words=lambda spec: f"gate.minAcceptance: {spec.evaluate.gate.min_acceptance}",
        ),
        Rule(
            "allowed is PPO or MPO with pods.improve.nodes above 1: trl's trainers run on one process",
            f"!has(self.improve) || {_NOT_BY_TRL} || {_ON_ONE_NODE}".replace(
                "self.algorithm", "self.improve.algorithm"
            ),
            lambda spec: not _by_trl(spec.improve) or spec.pods.improve.nodes == 1,
            IMPROVE,
            words=lambda spec: f"algorithm: {spec.improve.algorithm}",
        ),
        *OF_RUNS,
    ),
    params.Improve: (
        Rule(
            f"allowed is 2 or more with {' and '.join(BY_TRL)}, which compare the suggestions of a state",
            f"{_NOT_BY_TRL} || !has(self.samplesPerState) || self.samplesPerState > 1",
            lambda improve: not _by_trl(improve) or improve.samples_per_state > 1,
            "samples_per_state",
        ),
        Rule(
            'allowed is "0" with RLOO, which has no entropy bonus',
            "!has(self.algorithm) || self.algorithm != 'RLOO' || !has(self.entropyCoefficient) || "
            "double(self.entropyCoefficient) == 0.0",
            lambda improve: improve.algorithm != "RLOO" or float(improve.entropy_coefficient) == 0,
            "entropy_coefficient",
        ),
        Rule(
            f"allowed is VLLM with algorithm {' or '.join(WITH_ENGINE)} only: MPO draws its candidates once",
            "!has(self.sampler) || self.sampler != 'VLLM' || "
            f"has(self.algorithm) && self.algorithm in {list(WITH_ENGINE)}",
            lambda improve: improve.sampler != "VLLM" or improve.algorithm in WITH_ENGINE,
            "sampler",
        ),
    ),
    CollectFrom: (
        Rule(
            "is missing; collect takes conversations from simulate, from logged, from history, or from history first "
            "and one of the others later",
            "has(self.simulate) || has(self.logged) || has(self.history)",
            lambda collect: collect.talks or collect.history is not None,
            "simulate",
        ),
        *OF_COLLECT,
    ),
    params.LogHistory: (
        _no_hub("conversations", "log"),
        _no_hub("outcomes", "file"),
        Rule(
            "allowed with outcomes only: it says how long those count",
            "!has(self.window) || has(self.outcomes)",
            lambda history: history.window is None or history.outcomes is not None,
            "window",
        ),
    ),
    params.Policy: (_no_hub("base", "model"),),
    params.WarmStart: (_exactly_one("conversations", "demonstrations"), _no_hub("conversations", "log")),
    Simulate: (
        Rule(
            "allowed is at most conversations",
            "self.parallelism <= self.conversations",
            lambda simulate: simulate.parallelism <= simulate.conversations,
            "parallelism",
            words=lambda simulate: f"{simulate.parallelism} with conversations {simulate.conversations}",
        ),
        Rule(
            'allowed is below "1": Q is the policy\'s, so some turns must be its own',
            "!has(self.exploration) || double(self.exploration) < 1.0",
            lambda simulate: float(simulate.exploration) < 1,
            "exploration",
        ),
        Rule(
            "vLLM samples at temperatures of 2 at most: lower temperature and, if it explores, explorationTemperature",
            f"!has(self.sampler) || self.sampler != 'VLLM' || (!has(self.temperature) || double(self.temperature) <= "
            f"{params.HOTTEST}) && (!has(self.exploration) || double(self.exploration) == 0.0 || "
            f"has(self.explorationTemperature) && double(self.explorationTemperature) <= {params.HOTTEST})",
            _vllm_samples,
            "sampler",
        ),
    ),
    params.FitQ: (
        Rule(
            'allowed is above "0" and below "1": some train, others measure',
            "!has(self.holdout) || double(self.holdout) > 0.0 && double(self.holdout) < 1.0",
            lambda fit_q: 0 < float(fit_q.holdout) < 1,
            "holdout",
        ),
        Rule(
            "it regresses whole returns: leave traceLambda and lastLayer out, or give 1 and Gradient",
            "!has(self.method) || self.method != 'MonteCarlo' || (!has(self.traceLambda) || "
            "double(self.traceLambda) == 1.0) && (!has(self.lastLayer) || self.lastLayer == 'Gradient')",
            lambda fit_q: (
                fit_q.method != "MonteCarlo"
                or (float(fit_q.trace_lambda) == 1 and fit_q.last_layer in {None, "Gradient"})
            ),
            "method",
        ),
    ),
    S3: (
        Rule(
            f"allowed are {SEGMENTS}",
            f"!has(self.prefix) || self.prefix == '' || self.prefix.matches('{_PREFIX}')",
            lambda s3: not s3.prefix or re.fullmatch(_PREFIX, s3.prefix) is not None,
            "prefix",
        ),
        Rule(
            "allowed with encryption SSE-KMS only",
            "!has(self.kmsKeyId) || has(self.encryption) && self.encryption == 'SSE-KMS'",
            lambda s3: s3.kms_key_id is None or s3.encryption == "SSE-KMS",
            "kms_key_id",
        ),
    ),
    Promotion: (
        Rule(
            "approves and rejects the same iteration; give one of the two",
            "!has(self.approve) || !has(self.reject) || self.approve != self.reject",
            lambda promotion: promotion.approve is None or promotion.approve != promotion.reject,
        ),
    ),
    ValueFrom: (_exactly_one("secret_key_ref", "config_map_key_ref"),),
    EnvVar: (
        _exactly_one("value", "value_from"),
        Rule(
            "this variable is set by the operator",
            f"self.name in {[*SETTABLE]} || !self.name.matches('{_RESERVED_ENV}')",
            lambda variable: variable.name in SETTABLE or re.match(_RESERVED_ENV, variable.name) is None,
            "name",
        ),
    ),
    Toleration: (
        Rule(
            "without a key, operator must be Exists",
            "has(self.key) || self.operator == 'Exists'",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            "operator Exists takes any value; leave value out",
            "!has(self.value) || self.operator == 'Equal'",
            lambda toleration: toleration.value is None or toleration.operator == "Equal",
        ),
    ),
    Volume: (
        _exactly_one(*VOLUME_SOURCES),
        Rule(
            "the operator provides this folder; take another one",
            f"!self.mountPath.matches('{_PROVIDED_MOUNT}')",
            lambda volume: re.match(_PROVIDED_MOUNT, volume.mount_path) is None,
            "mount_path",
        ),
        Rule(
            "allowed are a mountPath and a relative subPath without ..",
            f"!self.mountPath.matches('{_text(_CLIMBS)}') && (!has(self.subPath) || "
            f"!self.subPath.matches('^/|{_text(_CLIMBS)}'))",
            lambda volume: (
                not re.search(_CLIMBS, volume.mount_path) and not re.search(f"^/|{_CLIMBS}", volume.sub_path)
            ),
        ),
    ),
    PodSettings: (_no_own_keys("labels"), _no_own_keys("annotations")),
    **LIVE_RULES,
}
"""By model; a rule of a model counts for the models that derive from it."""


@cache
def rules_of(model: type[Model]) -> tuple[Rule, ...]:
    """The rules of a section, with those of the models that it derives from."""
    return tuple(rule for base in model.__mro__ for rule in RULES.get(base, ()))


def problems(spec: RunSpec) -> list[Problem]:
    """Every rule that this spec breaks; of a run that collects from nowhere, nothing that follows from that."""
    unclear = any(not rule.holds(spec.collect) for rule in rules_of(CollectFrom))
    return [
        rule.problem(path, section)
        for path, section in _sections("spec", spec)
        if not (unclear and section is spec)
        for rule in rules_of(type(section))
        if not rule.holds(section)
    ]


def _sections(path: str, section: Model) -> Iterator[tuple[str, Model]]:
    """The section and all below it, each with its path."""
    yield path, section
    for name, alias in _aliases(type(section)):
        value = getattr(section, name)
        if isinstance(value, Model):
            yield from _sections(f"{path}.{alias}", value)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Model):
                    yield from _sections(f"{path}.{alias}[{index}]", item)


@cache
def _aliases(model: type[Model]) -> tuple[tuple[str, str | None], ...]:
    return tuple((name, field.alias) for name, field in model.model_fields.items())
