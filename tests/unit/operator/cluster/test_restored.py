"""Runs restored from a backup: another UID, the same artifacts; and never two runs in one folder."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ippo_trainer.contract.spec import StageSpec

from tests.kit.fake_api import FakeApi, Object
from tests.kit.planner_world import good_result
from tests.kit.toy_cluster import (
    ToyController,
    ToyOperator,
    attempts,
    begin,
    condition,
    run_manifest,
    spec_of,
    status_of,
    the_run,
    uid,
)

SERVED = {"iterations": {"max": 2}, "serve": {"engine": "Transformers"}}


def under_way(stop: Callable[[FakeApi], bool], **spec: Any) -> FakeApi:
    """A run that was carried so far."""
    api, operator, controller = begin(**spec)
    for _ in range(100):
        operator.reconcile()
        if stop(api):
            return api
        controller.step()
    raise AssertionError("it never got there")


def at(stage: str, seen: bool = True) -> Callable[[FakeApi], bool]:
    def there(api: FakeApi) -> bool:
        active = status_of(api).get("active") or {}
        return status_of(api).get("stage") == stage and bool(active) and active.get("observed", False) == seen

    return there


def restore(backup: Object, namespace: str = "team", api: FakeApi | None = None, **status: Any) -> FakeApi:
    """Creates the run of the backup with its status; by default in a new cluster. The server gives it a UID."""
    made = api or FakeApi()
    if api is None:
        made.skip_versions(1000)
    metadata = {"name": backup["metadata"]["name"], "namespace": namespace}
    made.put("iterativepporuns", backup | {"metadata": metadata, "status": backup["status"] | status})
    return made


def prefixes(api: FakeApi) -> set[str]:
    """Where the stages of all attempts look for artifacts."""
    specs = [spec_of(api, item["metadata"]["name"]) for item in api.all("configmaps")]
    return {spec.store.s3.prefix for spec in specs if spec.store.s3 is not None}


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("stage", ["warm-start", "collect", "improve", "evaluate"])
def test_a_restored_run_goes_on_in_its_folder_and_repeats_nothing(stage: str, seen: bool) -> None:
    before = under_way(at(stage, seen), **SERVED)
    backup = copy.deepcopy(the_run(before))
    folder = f"small/{uid(backup)}"
    assert backup["status"]["artifacts"] == {"folder": folder, "owner": uid(backup)}
    api = restore(backup)
    assert uid(the_run(api)) != uid(backup)
    ToyOperator(api).finish(ToyController(api))
    assert condition(api, "Ready")["status"] == "True"
    assert status_of(api)["artifacts"] == {"folder": folder, "owner": uid(the_run(api))}
    assert prefixes(api) <= {folder}
    assert not set(attempts(api)) & set(attempts(before)), "names of Jobs have the UID in them"
    stages = [(spec_of(api, name).iteration, spec_of(api, name).stage) for name in attempts(api)]
    assert len(stages) == len(set(stages))
    rows = backup["status"].get("iterations", ())
    recorded = {(row["iteration"], done["stage"]) for row in rows for done in row.get("stages", ())}
    assert not recorded & set(stages)
    assert len(recorded | set(stages)) == 9
    assert status_of(api)["budgets"]["disruptions"] == 0
    notes = [event["note"] for event in api.all("events") if event["reason"] == "Restored"]
    assert notes == [f"goes on with the artifacts in {folder}"]


def test_a_run_that_was_done_stays_done_and_its_servers_come_back() -> None:
    before = under_way(lambda api: bool(status_of(api)) and condition(api, "Ready")["status"] == "True", **SERVED)
    backup = copy.deepcopy(the_run(before))
    api = restore(backup)
    ToyOperator(api).finish(ToyController(api))
    assert attempts(api) == []
    assert condition(api, "Ready")["status"] == "True"
    [deployment] = api.all("deployments")
    [fetch] = deployment["spec"]["template"]["spec"]["initContainers"]
    assert f'"prefix":"small/{uid(backup)}"' in " ".join(fetch["command"])
    assert [item["metadata"]["name"] for item in api.all("services")] == ["small"]


def test_jobs_and_servers_that_a_tool_restored_too_do_no_harm() -> None:
    before = under_way(at("collect"), **SERVED)
    api = restore(copy.deepcopy(the_run(before)))
    for kind in ("jobs", "configmaps", "deployments", "services"):
        for item in before.all(kind):
            api.put(kind, {**copy.deepcopy(item), "status": {}})
    orphans = [key for key in api.objects if key[0] != "iterativepporuns"]
    ToyOperator(api).settle()
    assert condition(api, "Stalled")["status"] == "False"
    for key in orphans:  # as the garbage collector does: their owner is gone
        if key in api.objects and uid(the_run(api)) not in str(api.objects[key]["metadata"]):
            api.remove(*key)
    ToyOperator(api).finish(ToyController(api))
    assert condition(api, "Ready")["status"] == "True"


def test_a_run_of_an_operator_that_wrote_no_folder_keeps_that_of_its_uid() -> None:
    api = under_way(at("fit-q"))
    status = {key: value for key, value in status_of(api).items() if key != "artifacts"}
    api.edit("iterativepporuns", "team", "small", status=status)
    ToyOperator(api).finish(ToyController(api))
    own = f"small/{uid(the_run(api))}"
    assert status_of(api)["artifacts"] == {"folder": own, "owner": uid(the_run(api))}
    assert prefixes(api) == {own}
    assert len(attempts(api)) == 5


def test_a_copy_beside_the_run_that_lives_waits_until_that_is_gone() -> None:
    api = under_way(at("collect"))
    restore(copy.deepcopy(the_run(api)), "copies", api)
    operator = ToyOperator(api)
    outcome = operator.reconcile(namespace="copies")
    copied = api.objects["iterativepporuns", "copies", "small"]
    told = {c["type"]: c for c in copied["status"]["conditions"]}
    assert (told["Stalled"]["status"], told["Stalled"]["reason"]) == ("True", "ArtifactsInUse")
    assert "in namespace team" in told["Stalled"]["message"]
    assert outcome.requeue_after is not None
    assert [place for kind, place, _ in api.created if kind == "jobs"] == ["team"] * len(attempts(api))
    operator.finish(ToyController(api))
    assert condition(api, "Succeeded")["status"] == "True"
    api.remove("iterativepporuns", "team", "small")
    operator.reconcile(namespace="copies")
    copied = api.objects["iterativepporuns", "copies", "small"]
    assert copied["status"]["artifacts"]["owner"] == uid(copied)
    told = {c["type"]: c for c in copied["status"]["conditions"]}
    assert told["Stalled"]["status"] == "False"


def test_of_two_copies_of_one_backup_the_first_goes_on() -> None:
    backup = copy.deepcopy(the_run(under_way(at("collect"))))
    api = restore(backup, "first")
    restore(backup, "second", api)
    operator = ToyOperator(api)
    for namespace in ("second", "first", "second"):
        operator.reconcile(namespace=namespace)
    assert {place for kind, place, _ in api.created if kind == "jobs"} == {"first"}


def test_a_namesake_with_another_bucket_or_prefix_is_nobodys_rival() -> None:
    api = under_way(at("collect"))
    other = copy.deepcopy(the_run(api))
    other["spec"]["artifacts"]["s3"]["prefix"] = "elsewhere"
    restore(other, "copies", api)
    ToyOperator(api).reconcile(namespace="copies")
    copied = api.objects["iterativepporuns", "copies", "small"]
    assert copied["status"]["artifacts"]["owner"] == uid(copied)


@pytest.mark.parametrize(
    "folder",
    ["other/0a1b", "small/../other/0a1b", "small/a/b", "small/", "small", "/small/0a1b", "../small/0a1b", "small/.."],
)
def test_no_status_leads_to_another_runs_folder(folder: str) -> None:
    """Whoever may write a status, and nothing else, must not read or write what is not this run's."""
    backup = copy.deepcopy(the_run(under_way(at("collect"))))
    api = restore(backup, artifacts={"folder": folder, "owner": "0a1b"})
    operator = ToyOperator(api)
    operator.reconcile()
    operator.reconcile()
    assert attempts(api) == []
    assert api.all("configmaps") == []
    told = condition(api, "Stalled")
    assert (told["status"], told["reason"]) == ("True", "ArtifactsInUse")
    assert folder in told["message"]


def test_a_local_run_has_no_folder_in_a_bucket(tmp_path: Any) -> None:
    """Its artifacts are in the folder that was given with --out."""
    from ippo_operator.api.load import parse_run
    from ippo_operator.api.status import RunStatus
    from ippo_operator.plan import folders

    manifest = run_manifest()
    del manifest["spec"]["artifacts"]
    run = parse_run(manifest)
    assert folders.claimed(run, RunStatus()) == RunStatus()


def test_what_a_stage_is_given_says_where_its_inputs_are() -> None:
    """The digest of the inputs does not depend on the folder, so a restored attempt finds the result of the first."""
    before = under_way(at("fit-q"))
    api = restore(copy.deepcopy(the_run(before)))
    asked: list[StageSpec] = []

    def ending(spec: StageSpec) -> Any:
        asked.append(spec)
        return good_result(spec)

    ToyOperator(api).finish(ToyController(api, ending))
    first = spec_of(before, attempts(before)[-1])
    assert asked[0].stage == "fit-q"
    assert asked[0].input_digest() == first.input_digest()
    assert asked[0].store == first.store
