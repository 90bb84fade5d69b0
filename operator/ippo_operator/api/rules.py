"""Rules between fields, which the schema of a single field cannot say."""

from collections.abc import Callable

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.layout import check_key

from ippo_operator.api import pod_rules
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.resource import RunSpec


def problems(spec: RunSpec) -> list[Problem]:
    """Every rule that this spec breaks."""
    return [problem for rule in _RULES for problem in rule(spec)]


def _warm_start_has_one_source(spec: RunSpec) -> list[Problem]:
    if spec.warm_start is None:
        return []
    given = [spec.warm_start.conversations is not None, spec.warm_start.demonstrations is not None]
    if sum(given) == 1:
        return []
    count = "both" if all(given) else "neither"
    return [Problem("spec.warmStart", f"given {count}, allowed is exactly one of conversations and demonstrations")]


def _tiny_needs_words(spec: RunSpec) -> list[Problem]:
    if not spec.policy.base.startswith("tiny:") or spec.warm_start is not None:
        return []
    text = "is missing; a tiny: base learns its words from warmStart.conversations or warmStart.demonstrations"
    return [Problem("spec.warmStart", text)]


def _addresses_can_be_read(spec: RunSpec) -> list[Problem]:
    """hf:// is in the schema since the first release; stages reach nothing but the store."""
    log = spec.warm_start.conversations if spec.warm_start is not None else None
    given = (("spec.policy.base", spec.policy.base, "model"), ("spec.warmStart.conversations", log or "", "log"))
    text = "which no stage can read; download the {} and give file:// or s3://"
    return [
        Problem(path, f"given {shown(uri)}, {text.format(what)}") for path, uri, what in given if uri.startswith("hf:")
    ]


def _discount_is_positive(spec: RunSpec) -> list[Problem]:
    if float(spec.discount) > 0:
        return []
    return [
        Problem("spec.discount", f'given {shown(spec.discount)}, allowed is above "0": at 0 no later outcome counts')
    ]


def _every_shard_has_work(spec: RunSpec) -> list[Problem]:
    simulate = spec.collect.simulate
    if simulate.parallelism <= simulate.conversations:
        return []
    text = f"given {simulate.parallelism}, allowed is at most conversations ({simulate.conversations})"
    return [Problem("spec.collect.simulate.parallelism", text)]


def _something_is_the_policys_own(spec: RunSpec) -> list[Problem]:
    share = spec.collect.simulate.exploration
    if float(share) < 1:
        return []
    text = f'given {shown(share)}, allowed is below "1": Q is the policy\'s, so some turns must be its own'
    return [Problem("spec.collect.simulate.exploration", text)]


def _holdout_leaves_both_sides(spec: RunSpec) -> list[Problem]:
    if 0 < float(spec.fit_q.holdout) < 1:
        return []
    text = f'given {shown(spec.fit_q.holdout)}, allowed is above "0" and below "1": some train, others measure'
    return [Problem("spec.fitQ.holdout", text)]


def _a_key_has_its_encryption(spec: RunSpec) -> list[Problem]:
    s3 = spec.artifacts.s3 if spec.artifacts is not None else None
    if s3 is None or s3.kms_key_id is None or s3.encryption == "SSE-KMS":
        return []
    return [
        Problem("spec.artifacts.s3.kmsKeyId", f"given {shown(s3.kms_key_id)}, allowed with encryption SSE-KMS only")
    ]


def _prefix_is_a_safe_key(spec: RunSpec) -> list[Problem]:
    if spec.artifacts is None or not spec.artifacts.s3.prefix:
        return []
    try:
        check_key(spec.artifacts.s3.prefix.rstrip("/"))
    except BadSpecError as error:
        return [Problem("spec.artifacts.s3.prefix", str(error))]
    return []


def _approved_or_rejected(spec: RunSpec) -> list[Problem]:
    promotion = spec.promotion
    if promotion.approve is None or promotion.approve != promotion.reject:
        return []
    return [Problem("spec.promotion", f"approves and rejects iteration {promotion.approve}; give one of the two")]


_RULES: tuple[Callable[[RunSpec], list[Problem]], ...] = (
    _warm_start_has_one_source,
    _tiny_needs_words,
    _addresses_can_be_read,
    _discount_is_positive,
    _every_shard_has_work,
    _something_is_the_policys_own,
    _holdout_leaves_both_sides,
    _prefix_is_a_safe_key,
    _a_key_has_its_encryption,
    _approved_or_rejected,
    pod_rules.problems,
)
