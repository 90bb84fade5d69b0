"""A run on the fake API, undisturbed."""

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
