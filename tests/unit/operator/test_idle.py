"""Fields that have no effect are told, each with the reason, and no run is refused for them."""

from typing import Any

import pytest
import yaml
from ippo_operator.api import idle
from ippo_operator.api.load import load_run
from ippo_operator.api.resource import RunSpec
from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.improve.algorithms.mpo.settings import MPOSettings
from ippo_trainer.improve.algorithms.ppo.settings import PPOSettings
from pydantic.alias_generators import to_camel

ENVIRONMENT = {"environment": {"name": "sr-funnel"}}
EXPLORING = {"simulate": ENVIRONMENT | {"exploration": "0.1"}}
BASE: dict[str, Any] = {
    "iterations": {"max": 1},
    "policy": {"base": "tiny:d64-l2"},
    "collect": {"simulate": ENVIRONMENT},
    "warmStart": {"demonstrations": 100},
}
LOG = {"conversations": "s3://shop/log.jsonl"}
LOGGED = {"warmStart": LOG, "collect": {"history": LOG}}


def spec_of(**sections: Any) -> RunSpec:
    whole = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "shop"}}
    return load_run(yaml.safe_dump(whole | {"spec": BASE | sections})).spec


def paths(**sections: Any) -> list[str]:
    return [problem.path for problem in idle.problems(spec_of(**sections))]


FITS = {
    "ranks": [4],
    "folds": 2,
    "ridge": "3",
    "earlierIterations": 1,
}
KEPT = LOGGED | {"collect": {"logged": {}}, "serve": {}, "gateway": {"journalVolume": {"storage": "2Gi"}}}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(
        (f"spec.fitQ.{field}", {"fitQ": {"lastLayer": "Gradient", field: value}}, {"fitQ": {field: value}})
        for field, value in FITS.items()
    ),
    (
        "spec.fitQ.folds",
        {"fitQ": {"method": "MonteCarlo", "folds": 2}},
        {"fitQ": {"method": "ExpectedSARSA", "folds": 2}},
    ),
    *(
        ("spec.fitQ.maxForeign", {"fitQ": {"method": method, "maxForeign": "0.5"}}, {"fitQ": {"maxForeign": "0.5"}})
        for method in ("SARSA", "ExpectedSARSA")
    ),
    (
        "spec.fitQ.maxCollections",
        {"fitQ": {"maxCollections": 4}},
        {"fitQ": {"maxCollections": 4, "onUninformative": "CollectMore"}},
    ),
    (
        "spec.collect.simulate.explorationDecay",
        {"collect": {"simulate": ENVIRONMENT | {"explorationDecay": "0.5"}}},
        {"collect": {"simulate": EXPLORING["simulate"] | {"explorationDecay": "0.5"}}},
    ),
    *(
        (
            f"spec.collect.simulate.{field}",
            {"collect": {"simulate": ENVIRONMENT | {field: "0.5"}}},
            {"collect": {"simulate": ENVIRONMENT | {field: "0.5"}}, "improve": {"algorithm": "MPO"}},
        )
        for field in ("explorationTemperature", "explorationMinP")
    ),
    (
        "spec.warmStart.writers",
        {"warmStart": {"demonstrations": 9, "writers": ["ana"]}},
        {"warmStart": LOG | {"writers": ["ana"]}},
    ),
    ("spec.evaluate.conversations", LOGGED | {"evaluate": {"conversations": 10}}, {"evaluate": {"conversations": 10}}),
    (
        "spec.evaluate.gate.metric",
        LOGGED | {"evaluate": {"gate": {"metric": "Success"}}},
        {"evaluate": {"gate": {"metric": "Success"}}},
    ),
    (
        "spec.serve.canary",
        {"serve": {"canary": {"share": "0.5"}}},
        LOGGED | {"collect": {"logged": {}}, "serve": {"strategy": "Canary", "canary": {"share": "0.5"}}},
    ),
    (
        "spec.gateway.journalVolume",
        KEPT,
        KEPT | {"artifacts": {"s3": {"bucket": "shop"}}},
    ),
    (
        "spec.report.currency",
        {"report": {"currency": "EUR"}},
        {"report": {"currency": "EUR", "valuePerOutcome": "9"}},
    ),
]


@pytest.mark.parametrize(
    ("path", "without", "effective"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_a_field_is_named_where_it_has_no_effect_and_only_there(
    path: str, without: dict[str, Any], effective: dict[str, Any]
) -> None:
    assert paths(**without) == [path]
    assert paths(**effective) == []


OTHER = {"updates": 3, "batchSize": 3, "epochs": 3, "minibatches": 3, "criticWarmupUpdates": 3, "mpo": {"epochs": 3}}
READERS = {
    "mpo": {"MPO", "MPOThenPPO"},
    **{field: {"PPO", "MPOThenPPO"} for field in ("criticLearningRate", "criticWarmupUpdates", "gaeLambda")},
    **{field: set(ALGORITHMS) for field in ("klTarget", "samplesPerState")},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("field", sorted(map(to_camel, set(params.Improve.model_fields) - {"algorithm", "sampler"})))
def test_fields_of_improve_are_for_some_algorithms(algorithm: str, field: str) -> None:
    value = OTHER.get(field, 3 if field == "samplesPerState" else "0.3" if field != "entropyCoefficient" else "0")
    readers = READERS.get(field, set(ALGORITHMS) - {"MPO"})
    expected = [f"spec.improve.{field}"] if algorithm not in readers and field != "entropyCoefficient" else []
    assert paths(improve={"algorithm": algorithm, field: value}) == expected


class Spy:
    """Says which fields are read."""

    def __init__(self, section: params.Improve) -> None:
        self.section, self.names = section, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        value = getattr(self.section, name)
        if name != "value":
            return value

        def noted(field: str) -> Any:
            self.names.add(field)
            return value(field)

        return noted


@pytest.mark.parametrize(("settings", "algorithm"), [(PPOSettings, "PPO"), (MPOSettings, "MPO")])
def test_the_table_says_what_the_algorithms_read(settings: Any, algorithm: Any) -> None:
    spy: Any = Spy(params.Improve(algorithm=algorithm))
    settings.of(spy)
    idle_fields = {
        field
        for row in idle.TABLE
        if row.section == "improve" and row.idle(spec_of(improve={"algorithm": algorithm}))
        for field in row.fields
    }
    assert spy.names - {"value"}
    assert not spy.names & idle_fields
    beside = {"kl_target", "algorithm", "sampler", "samples_per_state", "batch_size", "mpo"}  # or not at all
    assert (spy.names - {"value"}) | idle_fields | beside == set(params.Improve.model_fields)


def test_the_reason_and_the_remedy_are_told() -> None:
    [problem] = idle.problems(spec_of(improve={"algorithm": "MPO", "clipRange": "0.1"}))
    assert str(problem) == (
        'spec.improve.clipRange: given "0.1", which has no effect with algorithm MPO; leave it out, or set '
        "improve.algorithm to PPO, MPOThenPPO, GRPO or RLOO"
    )
    assert idle.in_words(spec_of(improve={"algorithm": "MPO", "clipRange": "0.1"})) == (
        "no effect in this run: spec.improve.clipRange; `ippo validate` says why"
    )


def test_what_the_api_server_writes_down_is_nothing_that_a_user_said() -> None:
    """Defaults, where the algorithm that is chosen does not read them."""
    written = params.Improve().model_dump(mode="json", by_alias=True, exclude_none=True)
    assert paths(improve=written | {"algorithm": "MPO"}) == []
