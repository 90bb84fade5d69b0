"""Defaults that depend on the base: each is used, a manifest's own value stands, and tiny bases keep their digests."""

from typing import Any

import pytest
from ippo_operator.api.changes import problems
from ippo_operator.api.fitting import chosen, fitted
from ippo_operator.plan.stage_specs import settings_of
from ippo_trainer.contract import params
from ippo_trainer.contract.defaults import BY_BASE, KINDS, kind_of
from ippo_trainer.contract.spec import StageSpec, StoreLocation
from pydantic.alias_generators import to_camel

from tests.kit.planner_world import make_run

POLICIES: dict[str, params.Policy] = {
    "tiny": params.Policy(base="tiny:d64-l2", adapter=params.Adapter()),
    "pretrained": params.Policy(base="s3://models/a"),
    "adapters": params.Policy(base="s3://models/a", adapter=params.Adapter()),
}
MPO = params.Improve(algorithm="MPO")
SECTIONS: dict[str, tuple[str, str, Any]] = {
    "warmStart": ("warm-start", "warm_start", params.WarmStart(demonstrations=9)),
    "fitQ": ("fit-q", "fit_q", params.FitQ()),
    "improve": ("improve", "improve", params.Improve()),
    "improve.mpo": ("improve", "improve", MPO),
}


def spec_of(path: str, policy: params.Policy, section: Any = None, **more: Any) -> StageSpec:
    stage, field, usual = SECTIONS[path]
    sections = {field: section or usual, **more}
    store = StoreLocation(directory="/x")
    fields: dict[str, Any] = {"run": "a", "iteration": 1, "seed": 7, "discount": "0.95", "store": store}
    return StageSpec(stage=stage, policy=policy, **fields, **sections)  # type: ignore[arg-type]


def section_of(spec: StageSpec, path: str) -> Any:
    section = getattr(spec, SECTIONS[path][1])
    return (section.mpo or params.Mpo()) if path == "improve.mpo" else section


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("path", "name"), [(path, name) for path, fields in BY_BASE.items() for name in fields])
def test_each_of_them_is_what_a_stage_computes_with(kind: Any, path: str, name: str) -> None:
    policy = POLICIES[kind]
    assert kind_of(policy.base, policy.adapter is not None) == policy.kind == kind
    spec = spec_of(path, policy)
    default = BY_BASE[path][name]
    assert section_of(spec, path).value(name) == getattr(default, kind)
    assert StageSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec
    # A value of the user's own stands, at every base.
    other = 7 if isinstance(default.tiny, int) else "0.5"
    section = (
        params.Mpo(**{name: other}) if path == "improve.mpo" else SECTIONS[path][2].model_copy(update={name: other})
    )
    own = MPO.model_copy(update={"mpo": section}) if path == "improve.mpo" else section
    assert section_of(spec_of(path, policy, own), path).value(name) == other
    # The operator hands the stage what it says.
    changes = {"warmStart": {"demonstrations": 9}, "improve": {"algorithm": "MPO"} if path == "improve.mpo" else {}}
    run = make_run(policy=policy.model_dump(by_alias=True, exclude_none=True), **changes)
    said = chosen(run.spec).get(f"{path}.{to_camel(name)}")
    assert said == (None if path == "improve.mpo" and kind == "tiny" else str(getattr(default, kind)))
    stage, field, _ = SECTIONS[path]
    sections = settings_of(run.spec, stage)  # type: ignore[arg-type]
    assert section_of(spec_of(path, policy, sections[field]), path).value(name) == getattr(default, kind)


def test_tiny_bases_keep_their_digests() -> None:
    """Of the release before: there these values were written down wherever they were left out."""
    tiny = params.Policy(base="tiny:d64-l2")
    explored = params.Collect(exploration="0.1")
    specs = [
        spec_of("warmStart", tiny),
        spec_of("fitQ", tiny),
        spec_of("improve", tiny),
        spec_of("improve.mpo", tiny),
        spec_of("improve", tiny, params.Improve(mpo=params.Mpo(epochs=3)), collect=explored),
    ]
    assert [spec.input_digest() for spec in specs] == [
        "sha256:9f5a8037cf6971f3c40460942fdbff7f44e36b6cf01f6552e932d3fd8806fa30",
        "sha256:38f3b6337bc9b01583cb39b63f6c920b6a3ff4e79b0076a41cf99c2ae1597d9d",
        "sha256:4aee1fb52d1d461bbdc6d07d63f31aab6d6e9ed52d5c1c9b6c0ee2a073844983",
        "sha256:15efbc1176473a40763e5437421bb47c742f783626746959eeae7a9f0a47f57e",
        "sha256:f720286b7566411e8b88f43787103f69a4c5ae27c4c407bf1917c4c2f99077ee",
    ]


def test_a_digest_holds_what_the_base_chose() -> None:
    for path, (_, _, usual) in SECTIONS.items():
        given = usual.filled("pretrained") if path != "improve.mpo" else usual.fitted("pretrained", None)
        left, written = spec_of(path, POLICIES["pretrained"]), spec_of(path, POLICIES["pretrained"], given)
        assert left.input_digest() == written.input_digest()
        assert left.input_digest() != spec_of(path, POLICIES["pretrained"], usual.filled("tiny")).input_digest()


def test_a_value_that_an_earlier_release_wrote_down_is_no_change() -> None:
    """It wrote the defaults of tiny bases into every run."""
    warm = {"demonstrations": 9, "learningRate": "0.004", "epochs": 3, "batchSize": 64}
    before, after = make_run(warmStart=warm), make_run(warmStart={"demonstrations": 9})
    assert problems(before.spec, after.spec) == []
    pretrained = {"base": "s3://models/a"}
    before, after = (make_run(policy=pretrained, warmStart=value) for value in (warm, {"demonstrations": 9}))
    assert {problem.path for problem in problems(before.spec, after.spec)} == {
        "spec.warmStart.learningRate",
        "spec.warmStart.epochs",
    }
    assert fitted(fitted(after.spec)) == fitted(after.spec)
