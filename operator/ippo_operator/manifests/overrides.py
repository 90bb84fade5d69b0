"""What a run says about its pods, for one kind of them: its own section on top of `common`."""

from typing import Any, TypeVar, cast

from ippo_trainer.contract.params import Model
from ippo_trainer.contract.stages import StageName

from ippo_operator.api.pods import Pods, PodSettings, Resources, StagePods

_P = TypeVar("_P", bound=PodSettings)


def for_stage(pods: Pods, stage: StageName) -> StagePods:
    """The settings of a stage's pods."""
    return _merged(StagePods, pods.common, pods.of(stage))


def for_servers(pods: Pods) -> PodSettings:
    """The settings of the servers' pods. Their image is another one than the stages'."""
    return _merged(PodSettings, pods.common.model_copy(update={"image": None}), pods.serve)


def for_gateways(pods: Pods, resources: Resources | None) -> PodSettings:
    """The settings of gateways' pods. They compute nothing: no device is theirs."""
    own = pods.common.resources if resources is None else resources
    plain = PodSettings.model_construct(**{name: getattr(pods.common, name) for name in PodSettings.model_fields})
    return plain.model_copy(update={"resources": without_devices(own)})


def without_devices(resources: Resources) -> Resources:
    """CPU, memory and the like, no GPUs."""
    amounts = (resources.requests, resources.limits)
    requests, limits = ({name: much for name, much in each.items() if "/" not in name} for each in amounts)
    return Resources.model_construct(requests=requests, limits=limits)


def _merged(kind: type[_P], common: PodSettings, own: PodSettings) -> _P:
    values = {name: _merge(getattr(common, name), getattr(own, name)) for name in kind.model_fields}
    return cast("_P", kind.model_construct(**values))


def _merge(common: Any, own: Any) -> Any:
    """Maps by key, named lists by name, requests and limits each; else what `own` gives."""
    if isinstance(own, Resources):
        requests, limits = common.requests | own.requests, common.limits | own.limits
        return Resources.model_construct(requests=requests, limits=limits)
    if isinstance(own, dict):
        return (common or {}) | own
    if isinstance(own, tuple) and _named(common) and _named(own):
        return tuple(({item.name: item for item in common} | {item.name: item for item in own}).values())
    return common if own is None else own


def _named(items: Any) -> bool:
    return isinstance(items, tuple) and all(isinstance(item, Model) and hasattr(item, "name") for item in items)
