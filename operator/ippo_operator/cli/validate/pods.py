"""What of spec.pods and of names the schema takes and Kubernetes, or the store, does not: a stage would wait for ever.

It is told here and not refused by rules: a run that has begun keeps its spec, and may never come to that pod.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping

from ippo_trainer.contract.fields import NAME
from ippo_trainer.contract.stages import STAGES, StageName

from ippo_operator.api.pods import DEVICES, Pods, PodSettings, Quantity, Resources
from ippo_operator.api.problems import Problem, shown
from ippo_operator.api.quantities import amount
from ippo_operator.api.resource import IterativePPORun
from ippo_operator.manifests.overrides import for_servers, for_stage

_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"
_LEAST_MEMORY = 1 << 20
_NAME = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
_LABEL_VALUE = re.compile(f"{_NAME}?")
_DOMAIN = NAME.strip("^$")
_KEY = re.compile(rf"({_DOMAIN}([.]{_DOMAIN})*/)?{_NAME}")
_NAMESPACE = re.compile(_DOMAIN)
_BETWEEN = re.compile(r"[.]{2}|[.]-|-[.]")
_LETTERS = "letters, digits, '-', '_' and dots, the first and the last a letter or digit"


def problems(run: IterativePPORun) -> Iterator[Problem]:
    """What would be refused."""
    pods, namespace = run.spec.pods, run.metadata.namespace
    if namespace is not None and not _NAMESPACE.fullmatch(namespace):
        yield _given("metadata.namespace", namespace, "lower-case letters, digits and '-'")
    if run.spec.artifacts is not None:
        bucket = run.spec.artifacts.s3.bucket
        if _BETWEEN.search(bucket) or _is_address(bucket):
            yield _given("spec.artifacts.s3.bucket", bucket, "no two dots in a row, no '-' beside a dot, no IP address")
    yield from _of_sections(pods)
    if run.spec.gateway is not None and run.spec.gateway.resources is not None:
        yield from _of_resources("spec.gateway.resources", run.spec.gateway.resources)
    yield from dict.fromkeys(_together(pods))
    if run.spec.device == "cuda" and run.spec.artifacts is not None:
        without = [stage.field for stage in STAGES if not any(DEVICES in name for name in _limits(pods, stage.name))]
        if without:
            yield Problem("spec.device", f'given "cuda"; no GPU is among resources.limits of {", ".join(without)}')


def _limits(pods: Pods, stage: StageName) -> Mapping[str, Quantity]:
    return for_stage(pods, stage).resources.limits


def _of_sections(pods: Pods) -> Iterator[Problem]:
    """By what each section says itself."""
    for name, field in type(pods).model_fields.items():
        section: PodSettings = getattr(pods, name)
        path = f"spec.pods.{field.alias}"
        if section.image is not None and re.search(r"\s", section.image):
            yield _given(f"{path}.image", section.image, "the name of an image, without blanks")
        yield from _of_resources(f"{path}.resources", section.resources)
        for labels in ("labels", "node_selector"):
            where = f"{path}.{type(section).model_fields[labels].alias}"
            yield from _of_keys(where, getattr(section, labels))
            for key, value in getattr(section, labels).items():
                if not _LABEL_VALUE.fullmatch(value):
                    yield _given(f"{where}.{key}", value, f"{_LETTERS}, or nothing")
        yield from _of_keys(f"{path}.annotations", section.annotations)


def _of_keys(path: str, keys: Mapping[str, str]) -> Iterator[Problem]:
    for key in keys:
        if not _KEY.fullmatch(key.lower() if "annotations" in path else key):
            yield _given(path, key, f"keys of {_LETTERS}, at most 63, after a domain and '/' where there is one")


def _of_resources(path: str, resources: Resources) -> Iterator[Problem]:
    for kind in ("requests", "limits"):
        for name, value in getattr(resources, kind).items():
            where, much = f"{path}.{kind}.{name}", amount(value) or 0
            if DEVICES in name and much != int(much):
                yield _given(where, value, "a whole number: nobody gets a part of a device")
            if DEVICES not in name and name not in _STANDARD and not name.startswith(_HUGE_PAGES):
                yield _given(f"{path}.{kind}", name, f"{', '.join(_STANDARD)}, or a device such as nvidia.com/gpu")
            if name == "memory" and 0 < much < _LEAST_MEMORY:
                yield _given(
                    where, value, 'an amount with a unit, such as 8Gi: without one it is bytes, "m" thousandths'
                )


def _together(pods: Pods) -> Iterator[Problem]:
    """By what sections and `common` come to together."""
    merged = {stage.field: for_stage(pods, stage.name).resources for stage in STAGES}
    for field, resources in {**merged, "serve": for_servers(pods).resources}.items():
        own: Resources = getattr(pods, _name_of(field)).resources
        for name, request in resources.requests.items():
            limit = resources.limits.get(name)
            section = field if name in own.requests or name in own.limits else "common"
            where = f"spec.pods.{section}.resources.requests.{name}"
            if limit is None:
                if DEVICES in name or name.startswith(_HUGE_PAGES):
                    yield _given(where, request, f"the same as limits.{name}, which is missing")
            elif _more(request, limit) or (DEVICES in name and amount(request) != amount(limit)):
                yield _given(where, request, f"at most limits.{name}, which is {limit}")


def _name_of(field: str) -> str:
    return next(name for name, info in Pods.model_fields.items() if info.alias == field)


def _more(request: Quantity, limit: Quantity) -> bool:
    return (amount(request) or 0) > (amount(limit) or 0)


def _is_address(bucket: str) -> bool:
    try:
        ipaddress.ip_address(bucket)
    except ValueError:
        return False
    return True


def _given(path: str, value: object, allowed: str) -> Problem:
    return Problem(path, f"given {shown(value)}, which is refused later; allowed is {allowed}")
