"""Where pods may run, in Kubernetes' own words: tolerations, affinity, spreading. Only what stays in the namespace."""

from typing import Annotated, Literal

from ippo_trainer.contract.params import Model
from pydantic import Field

Key = Annotated[str, Field(min_length=1, max_length=317)]
"""A label's or a taint's key: an optional DNS prefix of up to 253 characters, '/', and up to 63 more."""
Value = Annotated[str, Field(max_length=63)]
YEAR = 31_536_000  # seconds
StringMap = Annotated[dict[str, Value], Field(max_length=32)]


class Toleration(Model):
    """Lets pods run on nodes with a matching taint."""

    key: Key | None = None
    """The taint's key. Without it, operator must be Exists and every taint is tolerated."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists takes any value of the taint."""
    value: Value | None = None
    """The taint's value, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Without it, all effects."""
    toleration_seconds: Annotated[int, Field(ge=0, le=YEAR)] | None = None
    """How long a pod stays once its node has a NoExecute taint."""


class NodeRequirement(Model):
    """A condition on a node's labels."""

    key: Key
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How its value compares."""
    values: Annotated[tuple[Value, ...], Field(max_length=32)] = ()
    """Several for In and NotIn, a number for Gt and Lt, none otherwise."""


class NodeTerm(Model):
    """A node matches if it meets all requirements."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(min_length=1, max_length=16)]
    """Requirements."""


class PreferredNodes(Model):
    """Nodes that are better than others."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much better."""
    preference: NodeTerm
    """Which nodes."""


class LabelRequirement(Model):
    """A condition on a pod's labels."""

    key: Key
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value compares."""
    values: Annotated[tuple[Value, ...], Field(max_length=32)] = ()
    """For In and NotIn."""


class PodSelector(Model):
    """Pods of the run's namespace, by label."""

    match_labels: StringMap = {}
    """Labels that a pod has."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=16)] = ()
    """Requirements that it meets."""


class PodTerm(Model):
    """Other pods, and what counts as near."""

    label_selector: PodSelector
    """Which pods of the run's namespace."""
    topology_key: Key
    """Near is where this node label has the same value, e.g. kubernetes.io/hostname."""


class PreferredPods(Model):
    """Pods that it is better to be near to, or far from."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much better."""
    pod_affinity_term: PodTerm
    """Which pods."""


class RequiredNodes(Model):
    """Nodes that match at least one of the terms."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=8)]
    """Terms."""


class NodeAffinity(Model):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: RequiredNodes | None = None
    """Only these."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(max_length=8)
    ] = ()
    """Rather these."""


class PodAffinity(Model):
    """Near to which pods, or far from them."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodTerm, ...], Field(max_length=8)] = ()
    """Always."""
    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[PreferredPods, ...], Field(max_length=8)] = ()
    """If possible."""


class Affinity(Model):
    """Near to what, and far from what, pods run."""

    node_affinity: NodeAffinity | None = None
    """Which nodes."""
    pod_affinity: PodAffinity | None = None
    """Near to which pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Far from which pods."""


class Spread(Model):
    """Spreads a stage's (or the server's) own pods evenly."""

    max_skew: Annotated[int, Field(ge=1, le=1024)] = 1
    """Largest difference between two domains."""
    topology_key: Key
    """The node label that makes a domain, e.g. topology.kubernetes.io/zone."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Wait, or run unevenly."""
