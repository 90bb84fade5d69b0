"""A run on the fake API, undisturbed."""

from itertools import pairwise

from .fake_api import FakeApi
from .toy_cluster import ToyController, ToyOperator, attempts, condition, make_run, status_of


def test_a_run_is_carried_to_its_end() -> None:
    api = FakeApi()
    api.put("iterativepporuns", make_run(iterations={"max": 3}))
    operator, controller = ToyOperator(api), ToyController(api)
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert status_of(api)["progress"] == "3/3"
    assert len(attempts(api)) == len(set(attempts(api))) == 13
    assert controller.ran == attempts(api)


def test_a_pass_writes_the_status_then_acts_then_tells() -> None:
    api = FakeApi()
    api.put("iterativepporuns", make_run(iterations={"max": 1}))
    ToyOperator(api).finish(ToyController(api))
    writes = [(call.method, call.path.rsplit("/", 1)[-1]) for call in api.calls if call.method in {"POST", "PUT"}]
    for number, write in enumerate(writes):
        if write == ("POST", "jobs"):
            assert writes[number - 2 : number] == [("PUT", "status"), ("POST", "configmaps")]
    assert (("POST", "jobs"), ("POST", "events")) in pairwise(writes)
