"""A run on the fake API, undisturbed."""

from itertools import pairwise

from tests.kit.fake_api import FakeApi
from tests.kit.toy_cluster import ToyController, ToyOperator, attempts, condition, run_manifest, spec_of, status_of


def test_a_run_is_carried_to_its_end() -> None:
    api = FakeApi()
    api.put("iterativepporuns", run_manifest(iterations={"max": 3}))
    operator, controller = ToyOperator(api), ToyController(api)
    operator.finish(controller)
    assert condition(api, "Succeeded")["status"] == "True"
    assert status_of(api)["progress"] == "3/3"
    assert len(attempts(api)) == len(set(attempts(api))) == 13
    assert controller.ran == attempts(api)


def test_a_pass_writes_the_status_then_acts_then_tells() -> None:
    api = FakeApi()
    api.put("iterativepporuns", run_manifest(iterations={"max": 1}))
    ToyOperator(api).finish(ToyController(api))
    writes = [(call.method, call.path.rsplit("/", 1)[-1]) for call in api.calls if call.method in {"POST", "PUT"}]
    for number, write in enumerate(writes):
        if write == ("POST", "jobs"):
            assert writes[number - 2 : number] == [("PUT", "status"), ("POST", "configmaps")]
    assert (("POST", "jobs"), ("POST", "events")) in pairwise(writes)


def test_the_longest_prefix_that_a_manifest_may_have_leaves_room_for_the_run() -> None:
    prefix = "/".join(["a" * 63] * 8)
    api = FakeApi()
    api.put("iterativepporuns", run_manifest(artifacts={"s3": {"bucket": "artifacts", "prefix": f"{prefix}b"}}))
    ToyOperator(api).settle()
    [job] = attempts(api)
    store = spec_of(api, job).store.s3
    assert store is not None
    assert store.prefix.startswith(f"{prefix}b/small/")
