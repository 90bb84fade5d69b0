"""Clocks that are wrong, jump or differ: of the operator, its predecessor and the Deployment controller."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ippo_operator.api.status import ServedPolicy, ServingStatus
from ippo_operator.cluster.clock import ServerClock
from ippo_operator.cluster.servers import Stopwatch
from ippo_operator.plan.types import ObservedServing

from tests.kit.toy_cluster import ToyOperator, condition, deployment_status, stands, status_of

from .served_runs import begin_serving, deployment, only, promoted, rolling, served

HOURS = [-26, -1, 1, 26]
DATE = "Sat, 31 Jan 2026 12:00:00 GMT"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


@pytest.mark.parametrize("skew", HOURS)
@pytest.mark.parametrize("who", ["set", "restarted"])
def test_a_clock_that_is_off_undoes_no_roll_out_that_goes_well(skew: int, who: str) -> None:
    api, operator, controller, good = rolling()
    if who == "restarted":
        operator, now = ToyOperator(api), operator.now
        operator.now = now
    operator.skew = hours(skew)
    operator.now += timedelta(seconds=300)
    operator.settle()
    assert served(api) != good
    assert "failed" not in status_of(api)["serving"]
    controller.serves = lambda _: True
    operator.finish(controller)
    assert stands(api, "Ready") == ("True", "Completed")
    assert served(api) == promoted(api) != good


@pytest.mark.parametrize("skew", HOURS)
def test_a_status_by_a_clock_that_was_off_undoes_no_roll_out_either(skew: int) -> None:
    api, operator, _, good = rolling()
    status = status_of(api)
    since = (operator.now + hours(skew)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = status | {"serving": status["serving"] | {"waitingSince": since}}
    api.edit("iterativepporuns", "team", "small", status=status)
    operator.settle()
    operator.now += timedelta(seconds=300)
    operator.settle()
    assert served(api) != good
    operator.now += timedelta(seconds=300)
    operator.settle()
    assert served(api) == good, "the deadline itself counts"


@pytest.mark.parametrize("skew", HOURS)
def test_the_deployment_controllers_verdict_counts_whatever_the_operators_clock_says(skew: int) -> None:
    api, operator, _, good = rolling()
    operator.skew = hours(skew)
    operator.now += timedelta(seconds=20)
    generation = deployment(api)["metadata"]["generation"]
    late = deployment_status(generation, 1, 2, 1, exceeded=operator.now.isoformat())
    api.edit("deployments", "team", "small", status=late)
    operator.settle()
    assert served(api) == good
    assert stands(api, "Stalled") == ("True", "RolledBack")


def test_a_verdict_of_servers_before_these_is_not_about_them() -> None:
    """It stays for a moment when an older pod template comes back."""
    api, operator, controller, good = rolling()
    generation = deployment(api)["metadata"]["generation"]
    gave_up = operator.now.isoformat()
    api.edit("deployments", "team", "small", status=deployment_status(generation, 1, 2, 1, exceeded=gave_up))
    operator.settle()
    assert served(api) == good
    generation = deployment(api)["metadata"]["generation"]
    api.edit("deployments", "team", "small", status=deployment_status(generation, 0, 2, 1, exceeded=gave_up))
    operator.settle()
    assert status_of(api)["serving"]["target"]["digest"] == good
    assert "waiting" not in status_of(api)["serving"], "the way back has not timed out"
    controller.serves = only(good)
    operator.finish(controller)
    assert "waitingSince" not in status_of(api)["serving"]


def test_a_verdict_from_the_future_is_that_of_a_wrong_clock_and_heals() -> None:
    api, operator, controller, good = rolling()
    operator.finish(controller)
    assert (served(api), stands(api, "Stalled")) == (good, ("True", "RolledBack"))
    status = status_of(api)
    ahead = (operator.now + hours(1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    serving = status["serving"] | {"failed": status["serving"]["failed"] | {"time": ahead}}
    api.edit("iterativepporuns", "team", "small", status=status | {"serving": serving})
    controller.serves = lambda _: True
    operator.finish(controller)
    assert served(api) == promoted(api) != good
    assert stands(api, "Ready") == ("True", "Completed")


@pytest.mark.parametrize("skew", HOURS)
def test_jobs_are_kept_for_as_long_as_the_spec_says_by_any_clock(skew: int) -> None:
    api, operator, controller = begin_serving(serve=None, cleanup={"succeededSeconds": 3600})
    operator.skew = hours(skew)
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert len(api.all("jobs")) == 5
    operator.now += timedelta(seconds=3601)
    operator.settle()
    assert api.all("jobs") == []


@pytest.mark.parametrize("skew", HOURS)
def test_pods_may_wait_for_as_long_as_the_spec_says_by_any_clock(skew: int) -> None:
    api, operator, _ = begin_serving(pods={"common": {"pendingDeadlineSeconds": 600}})
    operator.settle()
    operator.skew = hours(skew)
    operator.now += timedelta(seconds=300)
    operator.settle()
    assert "overdue" not in status_of(api)["active"]
    operator.now += timedelta(seconds=301)
    operator.settle()
    assert "pendingDeadlineSeconds" in status_of(api)["active"]["overdue"]


def test_the_servers_clock_goes_on_between_answers_and_follows_them() -> None:
    steady = 0.0
    clock = ServerClock(lambda: steady, own=lambda: NOON + hours(7))
    assert clock() == NOON + hours(7)
    for nonsense in (None, "", "soon", "31 Jan"):
        clock.heard(nonsense)
    assert clock() == NOON + hours(7)
    clock.heard(DATE)
    steady = 1.5
    clock.heard(DATE)  # told in whole seconds, a moment ago
    assert clock() == NOON + timedelta(seconds=1.5)
    steady = 100.0
    clock.heard(DATE)
    assert clock() == NOON, "the server's clock was put back"


def test_a_stopwatch_starts_again_with_every_news() -> None:
    steady, key = 0.0, ("team", "small")
    watch = Stopwatch(lambda: steady)
    digest = "sha256:" + "0" * 64
    target = ServedPolicy(iteration=1, digest=digest, key="k", settings=digest)
    serving = ServingStatus(target=target, waiting_since=NOON)

    def seen(**fields: Any) -> ObservedServing:
        return ObservedServing(digest, **fields)

    watch.look(key, serving, seen())
    steady = 10.0
    assert watch.seconds(key, serving, seen()) == 10.0
    watch.look(key, serving, seen())
    steady = 20.0
    assert watch.seconds(key, serving, seen()) == 20.0
    assert watch.seconds(key, serving, seen(updated=1)) == 0.0
    assert watch.seconds(key, serving.model_copy(update={"waiting_since": NOON + hours(1)}), seen()) == 0.0
    watch.look(key, serving, seen(updated=1))
    steady = 25.0
    assert watch.seconds(key, serving, seen(updated=1)) == 5.0
    watch.look(key, serving.model_copy(update={"waiting_since": None}), seen(updated=1))
    assert watch.seconds(key, serving, seen(updated=1)) == 0.0
