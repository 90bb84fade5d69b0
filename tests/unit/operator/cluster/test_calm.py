"""A run that waits costs little, whatever the text does that says why."""

import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from ippo_operator.plan.essence import essence

from tests.kit.fake_api import FakeApi, Object, answer
from tests.kit.toy_cluster import ToyOperator, begin, complain, condition, pod_of, run_manifest, the_run

WORDS = ["alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima"]


def suffix(rng: random.Random) -> str:
    return "".join(rng.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


def forbidden(rng: random.Random) -> str:
    return (
        f'Error creating: pods "small-i0-warm-start-a1-{suffix(rng)}" is forbidden: exceeded quota: compute, '
        f"requested: requests.cpu=2, used: requests.cpu={rng.randint(8, 99)}, limited: requests.cpu=8"
    )


def scheduler(rng: random.Random) -> str:
    nodes = rng.randint(3, 90)
    parts = [
        f"{rng.randint(1, nodes)} Insufficient cpu",
        f"{rng.randint(1, nodes)} node(s) had untolerated taint {{x: }}",
    ]
    return (
        f"0/{nodes} nodes are available: {', '.join(sorted(parts))}. preemption: 0/{nodes} nodes are available: none."
    )


def anything(rng: random.Random) -> str:
    return " ".join(rng.sample(WORDS, 6))


def unschedulable(api: FakeApi, text: str) -> None:
    """As the scheduler does."""
    [job] = api.all("jobs")
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    api.objects.pop(("pods", "team", f"{job['metadata']['name']}-0"), None)
    api.put("pods", pod_of(job, 0, {"phase": "Pending", "conditions": [told]}))


def an_hour(
    text: Callable[[random.Random], str], say: Callable[[FakeApi, str], None]
) -> tuple[FakeApi, list[str], int]:
    """The writes of an hour in which the text is another one every 20 seconds, and how many texts there were."""
    api, rng = FakeApi(), random.Random(0)
    api.put("iterativepporuns", run_manifest())
    operator, texts = ToyOperator(api), set()
    operator.settle()
    operator.now += timedelta(seconds=30)
    api.calls.clear()
    for _ in range(180):
        texts.add(text(rng))
        say(api, text(rng))
        operator.reconcile()
        operator.now += timedelta(seconds=20)
    return api, [f"{call.method} {call.path.split('/')[-2]}" for call in api.calls if call.writes], len(texts)


@pytest.mark.parametrize(
    ("text", "say"), [(forbidden, complain), (scheduler, unschedulable)], ids=["a quota and names", "nodes"]
)
def test_numbers_and_names_that_change_are_no_news(
    text: Callable[[random.Random], str], say: Callable[[FakeApi, str], None]
) -> None:
    api, writes, texts = an_hour(text, say)
    assert texts > 100
    assert len(writes) == 2  # the status, once, and an event
    assert condition(api, "Reconciling")["reason"] in {"PodRefused", "Unschedulable"}


def test_texts_that_have_nothing_in_common_are_told_every_five_minutes() -> None:
    api, writes, texts = an_hour(anything, complain)
    assert texts > 100
    assert 12 <= len(writes) <= 30
    assert any(word in condition(api, "Reconciling")["message"] for word in WORDS)


def test_a_text_that_comes_and_goes_is_a_series() -> None:
    turns = iter(range(10**6))
    api, _, _ = an_hour(lambda _rng: ["no quota: alfa", "no account: bravo"][next(turns) // 30 % 2], complain)
    ours = [item for item in api.all("events") if "regarding" in item]
    assert len(ours) == 2
    assert all(item["series"]["count"] >= 2 for item in ours)


def test_another_reason_is_told_at_once() -> None:
    api, operator, _ = begin()
    operator.settle()
    operator.now += timedelta(seconds=30)
    complain(api, "exceeded quota: a")
    operator.settle()
    unschedulable(api, "0/3 nodes are available: 3 Insufficient cpu.")
    operator.settle()
    assert condition(api, "Reconciling")["reason"] == "Unschedulable"


def test_a_child_that_is_refused_with_changing_numbers_costs_nothing_again() -> None:
    api, rng = FakeApi(), random.Random(0)
    api.put("iterativepporuns", run_manifest())
    api.before = lambda _number, request: (
        answer(403, "Forbidden", f"exceeded quota: used: count/jobs.batch={rng.randint(1, 99)}")
        if (request.method, request.path.split("/")[-1]) == ("POST", "jobs")
        else None
    )
    operator = ToyOperator(api)
    for _ in range(3):
        operator.reconcile()
    api.calls.clear()
    for _ in range(50):
        operator.reconcile()
        operator.now += timedelta(seconds=60)
    assert [
        call.path for call in api.calls if call.writes and call.path.split("/")[-1] not in {"jobs", "configmaps"}
    ] == []
    assert condition(api, "Reconciling")["reason"] == "ChildRefused"


def test_what_a_text_says() -> None:
    first = 'pods "small-i1-collect-a1-x7k2p" is forbidden: exceeded quota: q, used: cpu=1500m, limited: cpu=2'
    other = 'pods "small-i1-collect-a1-bcd4f" is forbidden: exceeded quota: q, used: cpu=17, limited: cpu=2'
    assert essence(first) == essence(other)
    assert essence("1 Insufficient cpu, 2 Insufficient memory") == essence("4 Insufficient memory, 1 Insufficient cpu")
    assert essence('secret "token" not found') != essence('secret "wandb" not found')
    assert essence("exceeded quota: a") != essence("exceeded quota: b")
    assert len(essence("," * 10**6 + "." * 10**6)) <= 1


def test_events_of_what_is_no_warning_are_never_a_series() -> None:
    api, operator, _ = begin()
    operator.settle()
    for number in range(3):
        api.edit("iterativepporuns", "team", "small", spec=the_run(api)["spec"] | {"suspend": number % 2 == 0})
        operator.settle()
    told: list[Object] = [item for item in api.all("events") if item.get("reason") == "Suspending"]
    assert all("series" not in item for item in told)
