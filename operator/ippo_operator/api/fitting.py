"""Defaults that depend on the base, of a run: what they are, and which ones a manifest leaves to them."""

from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.defaults import KINDS, ByBase
from ippo_trainer.contract.stages import BY_NAME, IMPROVE
from pydantic.alias_generators import to_camel

from ippo_operator.api.resource import RunSpec


def fitted(spec: RunSpec) -> RunSpec:
    """The spec with the defaults of its base filled in, as its stages get them."""
    kind = spec.policy.kind
    update = {
        "warm_start": spec.warm_start and spec.warm_start.filled(kind),
        "fit_q": spec.fit_q.filled(kind),
        BY_NAME[IMPROVE].section: spec.improve.fitted(kind, spec.collect.simulate),
    }
    return spec.model_copy(update=update)


def chosen(spec: RunSpec) -> dict[str, str]:
    """By path of the manifest, the defaults that depend on the base and that its stages will take."""
    full = fitted(spec)
    pairs = [
        (spec.warm_start, full.warm_start),
        (spec.fit_q, full.fit_q),
        (spec.improve, full.improve),
        (spec.improve.mpo, full.improve.mpo),
    ]
    return {
        f"{section.PATH}.{to_camel(name)}": str(getattr(section, name))
        for before, section in pairs
        if section is not None
        for name in (before or type(section)()).absent()
        if getattr(section, name) is not None
    }


def rates(spec: RunSpec) -> list[tuple[ByBase, str]]:
    """The learning rates that the run's stages use: the section, with defaults filled in, and the field."""
    full = fitted(spec)
    fields: list[tuple[ByBase, str]] = [] if full.warm_start is None else [(full.warm_start, "learning_rate")]
    fields.append((full.fit_q, "learning_rate"))
    algorithm = ALGORITHMS[full.improve.chosen(spec.collect.simulate)]
    if algorithm.explorer and full.improve.mpo is not None:
        fields.append((full.improve.mpo, "learning_rate"))
    if algorithm.critic or not algorithm.explorer:
        fields += [(full.improve, "learning_rate"), (full.improve, "critic_learning_rate")]
    return fields


def in_words(spec: RunSpec) -> str:
    """The defaults that depend on a pretrained base, in one line; empty for a tiny one, or where all is given."""
    kind, values = spec.policy.kind, chosen(spec)
    if kind == "tiny" or not values:
        return ""
    return f"left out, for {KINDS[kind]}: " + ", ".join(f"{path} {value}" for path, value in values.items())
