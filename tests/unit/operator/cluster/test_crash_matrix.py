"""The operator dies before and after each of its API calls; a new one goes on to the same end."""

from collections.abc import Iterator

import pytest
from ippo_operator.cluster.transport import Request, Response

from tests.kit.fake_api import Died, FakeApi, Key, Object, copied
from tests.kit.toy_cluster import ToyController, ToyOperator, attempts, newest, run_manifest, status_of


class Undisturbed:
    """What a run comes to when nobody dies, and every state of the API server that an operator may die at.

    A new process knows nothing but that state, so dying around a call is starting from the state before or after it.
    """

    def __init__(self, run: Object) -> None:
        self.run = run
        self.api = FakeApi()
        self.controller = ToyController(self.api)
        self.states: dict[tuple[int, int], tuple[dict[Key, Object], list[Key], list[str]]] = {}
        self.api.put("iterativepporuns", run)
        self.api.before = lambda _number, _request: self._keep()
        self.api.after = lambda _number, _request, _response: self._keep()
        ToyOperator(self.api).finish(self.controller)
        self.status = status_of(self.api)
        self.jobs = attempts(self.api)

    def _keep(self) -> None:
        at = (newest(self.api), len(self.controller.ran))
        if at not in self.states:
            self.states[at] = copied((self.api.objects, self.api.created, self.controller.ran))

    def restarts(self) -> Iterator[tuple[FakeApi, ToyController]]:
        """A world for each state."""
        for (version, _), (objects, created, ran) in self.states.items():
            api = FakeApi(objects, created=created)
            api.skip_versions(version)
            yield api, ToyController(api, ran=ran)

    def check(self, api: FakeApi, controller: ToyController) -> None:
        """The same end, and no attempt twice."""
        assert status_of(api) == self.status
        assert attempts(api) == self.jobs == controller.ran


def test_a_restart_from_any_state_comes_to_the_same_end() -> None:
    whole = Undisturbed(run_manifest())
    assert len(whole.states) > 30
    for api, controller in whole.restarts():
        ToyOperator(api).finish(controller)
        whole.check(api, controller)


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 3])
def test_dying_before_and_after_every_single_call_changes_nothing(iterations: int) -> None:
    whole = Undisturbed(run_manifest(iterations={"max": iterations}))
    for call in range(len(whole.api.calls)):
        for when in ("before", "after"):
            api, controller = die_at(whole.run, call, when)
            ToyOperator(api).finish(controller)
            whole.check(api, controller)


def die_at(run: Object, call: int, when: str) -> tuple[FakeApi, ToyController]:
    """A world in which an operator died around its call of that number."""
    api = FakeApi()
    api.put("iterativepporuns", run)

    def before(number: int, _: Request) -> None:
        if when == "before" and number == call:
            raise Died

    def after(number: int, _request: Request, _response: Response) -> None:
        if when == "after" and number == call:
            raise Died

    controller = ToyController(api)
    api.before, api.after = before, after
    with pytest.raises(Died):
        ToyOperator(api).finish(controller)
    api.before, api.after = lambda _n, _r: None, lambda _n, _r, _a: None
    return api, controller
