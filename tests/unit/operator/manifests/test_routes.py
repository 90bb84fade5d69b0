"""What a gateway is told."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from ippo_operator.manifests.routes import Addresses, routes, routes_text
from ippo_operator.plan.types import CanaryIntent, LiveIntent
from ippo_trainer.contract.live import Canary, Routes
from ippo_trainer.contract.spec import ArtifactRef

from tests.kit.cluster_objects import POLICY, cluster_run, live_run

ADDRESSES = Addresses(active="http://shop:8000", candidate="http://shop-candidate:8000")
CANDIDATE = POLICY.model_copy(
    update={"iteration": 4, "artifact": ArtifactRef(key="iterations/0004/policy/00", digest="sha256:" + "b" * 64)}
)
SINCE = datetime(2026, 1, 31, 12, tzinfo=UTC)
CANARY = LiveIntent(POLICY, CanaryIntent(CANDIDATE, SINCE, Canary(share="0.25")))


def test_without_a_canary_the_active_policy_answers_all() -> None:
    said = routes(live_run(collect={"logged": {"idle": "5m"}}), LiveIntent(POLICY), ADDRESSES)
    assert (said.active.digest, said.active.url) == (POLICY.artifact.digest, ADDRESSES.active)
    assert (said.run, said.idle, said.outcome_window) == ("shop", "5m", "7d")
    assert (said.canary, said.personas) == (None, ())


def test_a_canary_says_who_since_when_and_how() -> None:
    personas = [{"name": "brief", "share": "0.1", "instructions": "Be brief."}]
    run = live_run(collect={"logged": {"personas": personas}})
    said = routes(run, CANARY, ADDRESSES)
    assert said.canary is not None
    assert (said.canary.route.digest, said.canary.route.url) == (CANDIDATE.artifact.digest, ADDRESSES.candidate)
    assert (said.canary.iteration, said.canary.since) == (4, SINCE.timestamp())
    assert said.canary.settings.share == "0.25"
    assert [persona.name for persona in said.personas] == ["brief"]


def test_the_switch_takes_all_personas_out_of_the_routes() -> None:
    section = {"personas": [{"name": "brief", "share": "0.1"}], "maxExploration": "0"}
    assert routes(live_run(collect={"logged": section}), CANARY, ADDRESSES).personas == ()


def test_the_file_is_read_again_as_it_was_written_and_equal_routes_are_equal_bytes() -> None:
    run = live_run()
    said = routes(run, CANARY, ADDRESSES)
    assert Routes.model_validate_json(routes_text(said)) == said
    assert routes_text(routes(run, replace(CANARY), ADDRESSES)) == routes_text(said)


def test_a_run_without_live_customers_has_no_routes() -> None:
    with pytest.raises(ValueError, match=r"spec\.collect\.logged"):
        routes(cluster_run(), CANARY, ADDRESSES)
