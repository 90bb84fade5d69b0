"""Pods of improve that train together: their Service comes before their Job and goes with it; they end as one."""

from datetime import timedelta

from tests.kit.toy_cluster import attempts, begin, ended_status, pod_of, status_of

THREE_PODS = {"improve": {"nodes": 3}}


def test_the_service_is_there_before_the_job_and_goes_with_it() -> None:
    api, operator, controller = begin(pods=THREE_PODS, cleanup={"succeededSeconds": 2000, "failedSeconds": 2000})
    operator.finish(controller)
    services = [service["metadata"]["name"] for service in api.all("services")]
    assert services == [job["metadata"]["name"] for job in api.all("jobs") if "-improve-" in job["metadata"]["name"]]
    name = services[0]
    made = [kind for kind, _, found in api.created if found == name]
    assert made == ["configmaps", "services", "jobs"]
    job = api.objects["jobs", "team", name]
    assert (job["spec"]["completions"], job["spec"]["template"]["spec"]["subdomain"]) == (3, name)
    operator.now += timedelta(seconds=2000)
    operator.settle()
    assert api.all("jobs") == api.all("services") == api.all("configmaps") == []


def test_a_pod_that_was_evicted_costs_a_disruption_whatever_the_others_say() -> None:
    api, operator, controller = begin(pods=THREE_PODS)
    operator.settle()
    while not (together := [job for job in api.all("jobs") if "-improve-" in job["metadata"]["name"]]):
        controller.step()
        operator.settle()
    [job] = together
    ends = [(75, "07"), (143, "04"), (75, "07")]
    for index, (code, second) in enumerate(ends):
        status = ended_status(code, "", finished=f"2026-01-31T12:00:{second}Z")
        if code == 143:
            status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "message": "drained"}]
        api.put("pods", pod_of(job, index, status))
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    failed["lastTransitionTime"] = "2026-01-31T12:00:07Z"
    api.edit("jobs", "team", job["metadata"]["name"], status={"conditions": [failed]})
    operator.settle()
    status = status_of(api)
    assert (status["lastFailure"]["kind"], status["budgets"]["disruptions"]) == ("Disruption", 1)
    operator.finish(controller)
    assert sum("-i1-improve-" in name for name in attempts(api)) == 2
