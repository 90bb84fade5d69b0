"""The rules of `rules`, `pod_rules` and `changes` once more, in CEL, for the API server.

So a run that breaks a rule is refused by `kubectl apply` itself, without a webhook.
"""

from dataclasses import dataclass
from typing import Any, get_args

from ippo_trainer.contract import params
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.variables import PREFIX, VLLM_ARGUMENTS

from ippo_operator.api import changes, pod_rules
from ippo_operator.api.cluster import S3, Promotion
from ippo_operator.api.pods import EnvVar, PodSettings, ValueFrom, Volume
from ippo_operator.api.resource import IterativePPORun, RunSpec, Simulate
from ippo_operator.api.scheduling import Toleration

STARTED = "has(oldSelf.status) && (has(oldSelf.status.stage) || has(oldSelf.status.startPolicy))"
"""The first attempt was named: from here on, the spec is what results are made from."""
IMMUTABLE = "is immutable since the run started; put it back or start a new run"
RISING = "may only rise since the run started"


@dataclass(frozen=True)
class Rule:
    """What must hold for a value, as CEL."""

    expression: str
    message: str
    field: str = ""
    """The field below that is wrong, e.g. `.parallelism`."""
    forbidden: bool = False
    """The value may be right but its change is not."""

    def manifest(self) -> dict[str, Any]:
        """An entry of x-kubernetes-validations."""
        entry: dict[str, Any] = {"rule": self.expression, "message": self.message}
        if self.field:
            entry["fieldPath"] = self.field
        if self.forbidden:
            entry["reason"] = "FieldValueForbidden"
        return entry


def _exactly_one(*fields: str) -> str:
    return f"[{', '.join(f'has(self.{field})' for field in fields)}].filter(given, given).size() == 1"


def _own_keys(field: str) -> str:
    own = f"key.matches('{pod_rules.OWN_KEYS}') && !key.startsWith('{pod_rules.TOPOLOGY_KEYS}')"
    return f"!has(self.{field}) || self.{field}.all(key, size(key) <= 317 && !({own}))"


def no_hub(what: str) -> str:
    return f"no stage can read hf://; download the {what} and give file:// or s3://"


_SEGMENT = "[A-Za-z0-9][A-Za-z0-9._=-]{0,254}"
_RESERVED = "|".join((f"{PREFIX}.*", *pod_rules.RESERVED_ENV))

RULES: dict[type[Model], tuple[Rule, ...]] = {
    RunSpec: (
        Rule(
            "!self.policy.base.startsWith('tiny:') || has(self.warmStart)",
            "is missing; a tiny: base learns its words from warmStart.conversations or warmStart.demonstrations",
            ".warmStart",
        ),
        Rule("double(self.discount) > 0.0", 'allowed is above "0": at 0 no later outcome counts', ".discount"),
        Rule(
            "has(self.artifacts)",
            "is missing; pods keep nothing, so a run in a cluster needs an S3 bucket: artifacts.s3.bucket",
            ".artifacts",
        ),
    ),
    params.Policy: (Rule("!self.base.startsWith('hf:')", no_hub("model"), ".base"),),
    params.WarmStart: (
        Rule(
            _exactly_one("conversations", "demonstrations"),
            "allowed is exactly one of conversations and demonstrations",
        ),
        Rule("!has(self.conversations) || !self.conversations.startsWith('hf:')", no_hub("log"), ".conversations"),
    ),
    Simulate: (
        Rule("self.parallelism <= self.conversations", "allowed is at most conversations", ".parallelism"),
        Rule(
            "!has(self.exploration) || double(self.exploration) < 1.0",
            'allowed is below "1": Q is the policy\'s, so some turns must be its own',
            ".exploration",
        ),
    ),
    params.FitQ: (
        Rule(
            "!has(self.holdout) || double(self.holdout) > 0.0 && double(self.holdout) < 1.0",
            'allowed is above "0" and below "1": some train, others measure',
            ".holdout",
        ),
    ),
    S3: (
        Rule(
            f"!has(self.prefix) || self.prefix == '' || self.prefix.matches('^{_SEGMENT}(/{_SEGMENT})*/*$')",
            "allowed are segments of letters, digits, '.', '_', '=' and '-' joined by '/', none starting with a dot",
            ".prefix",
        ),
        Rule(
            "!has(self.kmsKeyId) || has(self.encryption) && self.encryption == 'SSE-KMS'",
            "allowed with encryption SSE-KMS only",
            ".kmsKeyId",
        ),
    ),
    Promotion: (
        Rule(
            "!has(self.approve) || !has(self.reject) || self.approve != self.reject",
            "approves and rejects the same iteration; give one of the two",
        ),
    ),
    ValueFrom: (
        Rule(
            _exactly_one("secretKeyRef", "configMapKeyRef"),
            "allowed is exactly one of secretKeyRef and configMapKeyRef",
        ),
    ),
    EnvVar: (
        Rule(_exactly_one("value", "valueFrom"), "allowed is exactly one of value and valueFrom"),
        Rule(
            f"self.name == '{VLLM_ARGUMENTS}' || !self.name.matches('^({_RESERVED})$')",
            "this variable is set by the operator",
            ".name",
        ),
    ),
    Toleration: (
        Rule("has(self.key) || self.operator == 'Exists'", "without a key, operator must be Exists"),
        Rule("!has(self.value) || self.operator == 'Equal'", "operator Exists takes any value; leave value out"),
    ),
    Volume: (
        Rule(
            _exactly_one(*pod_rules.SOURCES.values()),
            f"allowed is exactly one of {', '.join(pod_rules.SOURCES.values())}",
        ),
        Rule(
            f"!self.mountPath.matches('{pod_rules.PROVIDED_MOUNT}')",
            "the operator provides this folder; take another one",
            ".mountPath",
        ),
        Rule(
            r"!self.mountPath.matches('(^|/)\\.\\.(/|$)') && (!has(self.subPath) || "
            r"!self.subPath.matches('^/|(^|/)\\.\\.(/|$)'))",
            "allowed are a mountPath and a relative subPath without ..",
        ),
    ),
    PodSettings: (
        Rule(_own_keys("labels"), pod_rules.NOT_YOURS, ".labels"),
        Rule(_own_keys("annotations"), pod_rules.NOT_YOURS, ".annotations"),
    ),
}
"""By model; a rule of a model counts for the models that derive from it."""

_NAME = Rule(
    "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name: allowed are a lower-case letter, then letters, digits and '-' up to 63, ending in a letter or "
    "digit; child names and artifact paths are made of it",
)


def rules_of(model: type[Model]) -> list[dict[str, Any]]:
    """The validations of a model, as entries of x-kubernetes-validations."""
    rules = [rule for base in model.__mro__ for rule in RULES.get(base, ())]
    if model is IterativePPORun:
        rules = [_NAME, *_changes("spec", RunSpec)]
    return [rule.manifest() for rule in rules]


def _changes(path: str, model: type[Model]) -> list[Rule]:
    """What `changes.problems` says, field by field."""
    rules: list[Rule] = []
    for name, field in model.model_fields.items():
        at = f"{path}.{field.alias or name}"
        if at in changes.FREE:
            continue
        if at in changes.RISING:
            rules.append(Rule(f"!({STARTED}) || self.{at} >= oldSelf.{at}", RISING, f".{at}", forbidden=True))
        elif any(other.startswith(f"{at}.") for other in (*changes.FREE, *changes.RISING)):
            rules += _changes(at, _model_of(field.annotation))
        else:
            same = f"self.{at} == oldSelf.{at}"
            if not field.is_required():
                same = f"has(self.{at}) == has(oldSelf.{at}) && (!has(self.{at}) || {same})"
            rules.append(Rule(f"!({STARTED}) || ({same})", IMMUTABLE, f".{at}", forbidden=True))
    return rules


def _model_of(annotation: Any) -> type[Model]:
    """The section's model. One that may be left out, as artifacts, is looked into all the same: a run that started has
    it, by a rule of its own."""
    for option in get_args(annotation) or (annotation,):
        if isinstance(option, type) and issubclass(option, Model):
            return option
    raise TypeError(f"{annotation} is no section")
