"""Wherever the operator dies, a new one brings the world to the same end: that of an easy run, and of runs with
retries, disruptions, a suspension, a human's answer, a raised limit, cleanup, roll-outs and their undoing, live
customers and A/B tests.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from ippo_operator.plan.live import POLL
from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.spec import Outcome, StageResult, StageSpec

from tests.kit.fake_api import Died, FakeApi, Key, Object, copied
from tests.kit.planner_world import START, good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    condition,
    deployment_status,
    newest,
    run_manifest,
    status_of,
    the_run,
)
from tests.kit.toy_gateway import LIVE, ToyGateway

Deed = Callable[["World"], bool]
"""What people and nodes do to the run, once the operator has nothing more to do; whether anything was done."""


CHILDREN = {"jobs", "configmaps", "deployments", "statefulsets", "persistentvolumeclaims", "services"}


def always(_template: Object) -> bool:
    """Servers of any pod template get ready."""
    return True


@dataclass
class World:
    """A run's API server, Job controller and users; operators come and go."""

    deeds: tuple[Deed, ...]
    ending: Callable[[StageSpec], StageResult | tuple[int, str]] = good_result
    run: Object = field(default_factory=run_manifest)
    now: datetime = START
    serves: Callable[[Object], bool] = always
    talks: bool = False
    """Whether there are customers, whom gateways serve."""

    def __post_init__(self) -> None:
        self.api = FakeApi()
        self.api.put("iterativepporuns", self.run)
        self.controller = ToyController(self.api, self.ending, serves=self.serves)
        self._open()

    def _open(self) -> None:
        if self.talks:
            self.gateway = ToyGateway(outcome=None, api=self.api)

    def go_on_from(self, objects: dict[Key, Object], created: list[Key], ran: list[str]) -> "World":
        """Another world of the same people, with an API server in this state."""
        other = dataclasses.replace(self)
        other.api = FakeApi(objects, created=created)
        other.api.skip_versions(newest(self.api))
        other.controller = ToyController(other.api, self.ending, ran, self.serves)
        other._open()
        return other

    def live(self) -> None:
        """One operator, until nothing more happens."""
        operator = self.operator = ToyOperator(self.api)
        operator.now = self.now
        self.api.clock = lambda: operator.now  # time does not stop with an operator that died
        try:
            for _ in range(400):
                outcome = operator.settle()
                if any(deed(self) for deed in self.deeds) or self.controller.step():
                    continue
                if outcome.requeue_after is None or (self.talks and outcome.requeue_after > POLL * 10):
                    return
                operator.now = operator.now.fromtimestamp(
                    operator.now.timestamp() + outcome.requeue_after, START.tzinfo
                )
        finally:
            self.now = operator.now
        raise AssertionError("the run does not come to rest")

    def edit(self, **spec: Any) -> bool:
        """A user changes the spec; whether that was a change."""
        before = the_run(self.api)["spec"]
        self.api.edit("iterativepporuns", "team", "small", spec=before | spec)
        return bool(before != before | spec)

    @property
    def end(self) -> tuple[Object, list[str], list[str], list[str]]:
        """What all worlds must have in common: status, attempts, attempts that ran, what is left."""
        left = [name for kind, _, name in self.api.objects if kind in CHILDREN]
        left += [digest_of(item["spec"]) for item in self.api.all("deployments")]
        status = status_of(self.api)
        # A roll-out's deadline is measured by the process: a new one begins it anew, so later things come later.
        status = status if self.serves is always and not self.talks else timeless(status)
        return status, attempts(self.api), self.controller.ran, sorted(left)


TIMES = {"lastTransitionTime", "time", "askedAt", "countedAt", "startedAt", "finishedAt"}


def timeless(value: Any) -> Any:
    """The status without its times, of all but stages."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def at(world: World, stage: str, attempt: int = 1) -> bool:
    """Whether an attempt of that stage runs, in pods."""
    status = status_of(world.api)
    active = status.get("active")
    running = active is not None and active["jobName"] in world.controller.ran
    return running and (status.get("stage"), status.get("attempt")) == (stage, attempt)


def suspended_once(world: World) -> bool:
    if at(world, "fit-q"):
        return world.edit(suspend=True)
    stands = condition(world.api, "Suspended")
    return stands["status"] == "True" and world.edit(suspend=False)


def a_pod_is_lost(world: World) -> bool:
    """The node of improve's first attempt dies, and its Job with it."""
    if not at(world, "improve"):
        return False
    world.api.remove("jobs", "team", status_of(world.api)["active"]["jobName"])
    return True


def answered(answer: str) -> Deed:
    def deed(world: World) -> bool:
        waits = condition(world.api, "Promoted")["reason"] == "AwaitingApproval"
        return waits and world.edit(promotion={"mode": "Manual", answer: status_of(world.api)["iteration"]})

    return deed


def raised(world: World) -> bool:
    done = condition(world.api, "Succeeded")["status"] == "True"
    return done and world.edit(iterations={"max": 2})


def failing(spec: StageSpec) -> StageResult | tuple[int, str]:
    """Every stage's first attempt ends in another way, the second one well."""
    codes = {"warm-start": 75, "collect": 1, "fit-q": 143, "improve": 139, "evaluate": 75}
    return good_result(spec) if spec.attempt > 1 else (codes[spec.stage], "not now")


def hopeless(spec: StageSpec) -> StageResult | tuple[int, str]:
    return (1, "bug") if spec.stage == "fit-q" else good_result(spec)


def rubbish_first(spec: StageSpec) -> StageResult | tuple[int, str]:
    return good_result(spec) if spec.attempt > 1 else (0, "rubbish")


SERVE: dict[str, Any] = {"serve": {"progressDeadlineSeconds": 600}}


def only_the_first(template: Object) -> bool:
    """Servers of any other policy than the warm start's never get ready."""
    return str(template["metadata"]["annotations"]["ippo.dev/iteration"]) == "0"


def mended(world: World) -> bool:
    """A user changes how servers are set up, once a roll-out was undone."""
    broken = condition(world.api, "Stalled")["reason"] == "RolledBack"
    return broken and world.edit(pods={"serve": {"image": "servers:2"}})


def with_the_new_image(template: Object) -> bool:
    return only_the_first(template) or template["spec"]["containers"][0]["image"] == "servers:2"


def not_served_any_more(world: World) -> bool:
    done = condition(world.api, "Ready")["status"] == "True"
    return done and world.edit(serve=None)


def in_test(world: World) -> bool:
    """Whether gateways know of a candidate."""
    return condition(world.api, "Promoted")["reason"] == "CanaryRunning" and world.gateway.routes().canary is not None


def outcomes_say(outcome: Outcome) -> Deed:
    """The test comes to its end, once what it makes of the world is there."""

    def deed(world: World) -> bool:
        news = in_test(world) and world.gateway.outcome is None
        world.gateway.outcome = outcome if in_test(world) else world.gateway.outcome
        return news

    return deed


def more_come(world: World) -> bool:
    """After a refusal as many conversations again are waited for."""
    waited = status_of(world.api).get("live") or {}
    news = bool(waited.get("earlierConversations")) and waited["policy"] not in world.gateway.known
    if news:
        world.gateway.known[waited["policy"]] = (2000, 200)
    return news


def approved_in_test(world: World) -> bool:
    return in_test(world) and world.edit(promotion={"approve": status_of(world.api)["iteration"]})


def settings_changed_in_test(world: World) -> bool:
    if not in_test(world):
        return False
    logged = the_run(world.api)["spec"]["collect"]["logged"] | {"personas": [{"name": "brief", "share": "0.1"}]}
    return world.edit(gateway={"replicas": 2}, collect={"logged": logged})


def volumes_come_and_go(world: World) -> bool:
    """Gateways get volumes, become fewer, and lose them again: each step once the one before is over."""
    objects, section = world.api.objects, the_run(world.api)["spec"].get("gateway")
    steps: list[dict[str, Any] | None] = [
        None,
        {"replicas": 2, "journalVolume": {"storage": "2Gi"}},
        {"replicas": 1, "journalVolume": {"storage": "2Gi"}},
        {"replicas": 1},
    ]
    over = [
        ("deployments", "team", "small-gateway") in objects,
        ("deployments", "team", "small-gateway") not in objects,
        len(world.api.all("persistentvolumeclaims")) == 1,
        False,
    ]
    at = steps.index(section)
    return over[at] and world.edit(gateway=steps[at + 1])


def promoted_without_volumes(world: World) -> bool:
    gone = not world.api.all("statefulsets") and the_run(world.api)["spec"].get("gateway") == {"replicas": 1}
    return gone and outcomes_say("Promote")(world)


def never_a_candidate(template: Object) -> bool:
    return str(template["metadata"]["labels"]["app.kubernetes.io/component"]) != "candidate"


def given_up(world: World) -> bool:
    """The Deployment controller gives a candidate's servers up."""
    servers = world.api.objects.get(("deployments", "team", "small-candidate"))
    if servers is None or servers.get("status", {}).get("conditions", [{}])[0].get("status") != "True":
        return False
    status = deployment_status(servers["metadata"]["generation"], 1, 1, 0, exceeded=world.operator.now.isoformat())
    world.api.edit("deployments", "team", "small-candidate", status=status)
    return True


def live(*deeds: Deed, serves: Callable[[Object], bool] = always) -> World:
    return World(deeds, run=run_manifest(iterations={"max": 2}, **LIVE), serves=serves, talks=True)


SCENARIOS: dict[str, Callable[[], World]] = {
    "all goes well": lambda: World(()),
    "retries of every kind": lambda: World((), failing),
    "the budget runs out": lambda: World((), hopeless),
    "unreadable results": lambda: World((), rubbish_first),
    "suspended and resumed": lambda: World((suspended_once,)),
    "a lost job": lambda: World((a_pod_is_lost,)),
    "approved": lambda: World((answered("approve"),), run=run_manifest(promotion={"mode": "Manual"})),
    "not approved": lambda: World((answered("reject"),), run=run_manifest(promotion={"mode": "Manual"})),
    "a raised limit": lambda: World((raised,)),
    "cleaned up soon": lambda: World((), failing, run_manifest(cleanup={"succeededSeconds": 0, "failedSeconds": 100})),
    "served": lambda: World((), run=run_manifest(iterations={"max": 2}, **SERVE)),
    "rolled back": lambda: World((), run=run_manifest(**SERVE), serves=only_the_first),
    "rolled back and mended": lambda: World((mended,), run=run_manifest(**SERVE), serves=with_the_new_image),
    "served for a while": lambda: World((not_served_any_more,), run=run_manifest(**SERVE)),
    "a candidate that customers like": lambda: live(outcomes_say("Promote")),
    "a candidate that they do not like": lambda: live(outcomes_say("Reject"), more_come),
    "approved in mid-test": lambda: live(settings_changed_in_test, approved_in_test),
    "a candidate that never starts": lambda: live(given_up, more_come, serves=never_a_candidate),
    "volumes for a while": lambda: live(volumes_come_and_go, promoted_without_volumes),
    "all at once": lambda: World(
        (suspended_once, a_pod_is_lost, answered("approve"), raised),
        failing,
        run_manifest(promotion={"mode": "Manual"}, cleanup={"succeededSeconds": 10, "failedSeconds": 20}),
    ),
}

ENDS = {
    "all goes well": ("Completed", 5),
    "retries of every kind": ("Completed", 10),
    "the budget runs out": ("BudgetExhausted", 5),
    "unreadable results": ("Completed", 10),
    "suspended and resumed": ("Completed", 6),
    "a lost job": ("Completed", 6),
    "approved": ("Completed", 5),
    "not approved": ("Completed", 5),
    "a raised limit": ("Completed", 9),
    "cleaned up soon": ("Completed", 10),
    "served": ("Completed", 9),
    "rolled back": ("Completed", 5),
    "rolled back and mended": ("Completed", 5),
    "served for a while": ("Completed", 5),
    "a candidate that customers like": ("Completed", 9),
    "a candidate that they do not like": ("Completed", 9),
    "approved in mid-test": ("Completed", 9),
    "a candidate that never starts": ("Completed", 9),
    "volumes for a while": ("Completed", 11),
    "all at once": ("Completed", 18),
}
"""What becomes of Succeeded, and how many attempts there are."""


def states(make: Callable[[], World]) -> tuple[World, list[World]]:
    """The world as it ends when nobody dies, and a world for every state that an operator may die in.

    A new operator knows nothing but that state. So dying before or after a call, be it a read or a write, is starting
    from the state then; a read changes none, so there are as many as changes.
    """
    world, kept = make(), dict[Any, World]()

    def keep() -> None:
        now = world.operator.now
        at = (newest(world.api), len(world.controller.ran), now)
        if at not in kept:
            objects, created, ran = copied((world.api.objects, world.api.created, world.controller.ran))
            kept[at] = world.go_on_from(objects, created, ran)
            kept[at].now = now

    world.api.before = lambda _number, _request: keep()
    world.api.after = lambda _number, _request, _response: keep()
    world.live()
    return world, list(kept.values())


def check(name: str, every: int) -> None:
    """Dies in every so many states: the last of so many, since whoever dies in the first has done nothing."""
    undisturbed, worlds = states(SCENARIOS[name])
    assert (condition(undisturbed.api, "Succeeded")["reason"], len(attempts(undisturbed.api))) == ENDS[name]
    assert len(worlds) > sum(request.writes for request in undisturbed.api.calls)
    assert len(undisturbed.end[1]) == len(set(undisturbed.end[1])) == len(set(undisturbed.end[2]))
    for number in range(every - 1, len(worlds), every):
        worlds[number].live()
        assert worlds[number].end == undisturbed.end, f"died in state {number}"
        assert worlds[number].controller.volumes.lost == [], f"died in state {number}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_dying_now_and_then_changes_nothing(name: str) -> None:
    check(name, every=1 if name == "all goes well" else 17)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_dying_around_any_call_changes_nothing(name: str) -> None:
    check(name, every=1)


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_process_that_dies_around_any_call_leaves_such_a_state(iterations: int) -> None:
    def easy_run() -> World:
        return World((), run=run_manifest(iterations={"max": iterations}))

    def dies(number: int, *_: object) -> None:
        if number == call:
            raise Died

    undisturbed = easy_run()
    undisturbed.live()
    for call in range(len(undisturbed.api.calls)):
        for when in ("before", "after"):
            world = easy_run()
            setattr(world.api, when, dies)
            with pytest.raises(Died):
                world.live()
            world.live()
            assert world.end == undisturbed.end, f"died {when} call {call}"
