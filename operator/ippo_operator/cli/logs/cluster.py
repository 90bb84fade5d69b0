"""`ippo logs`: of the stage that runs or ran last; with -f on to the next one until the run ends."""

import re
import time
from argparse import Namespace
from collections.abc import Callable

from ippo_trainer.contract.lines import printable
from ippo_trainer.contract.stages import NAMES

from ippo_operator.cli.clusters import cluster, find
from ippo_operator.cli.errors import FAILED, OK, TRY_AGAIN, CommandError
from ippo_operator.cli.logs.attempts import Attempt, check, latest, note, recorded, select
from ippo_operator.cli.run_view import RunView, cluster_view
from ippo_operator.cluster.errors import InvalidError, NotFoundError, UnavailableError
from ippo_operator.cluster.remote.runs import Object, Runs
from ippo_operator.manifests.identity import ATTEMPT, ITERATION, JOB_INDEX, STAGE

INTERVAL = 1.0
_NUMBER = re.compile(r"[0-9]{1,9}")


def command(arguments: Namespace) -> int:
    """Prints the log."""
    check(arguments)
    with cluster(arguments) as runs:
        if arguments.follow:
            return ClusterFollower(runs, arguments.run, arguments.shard, arguments.tail).follow()
        return _once(runs, find(runs, arguments.run), arguments)


def _once(runs: Runs, run: RunView, arguments: Namespace) -> int:
    pods = _stage_pods(runs, run)
    attempt = select(run, map(_attempt, pods), arguments)
    mine = [pod for pod in pods if _attempt(pod) == attempt]
    pod = _shard(mine, arguments.shard)
    if pod is None:
        raise CommandError(_no_pod(run, attempt, mine, arguments.shard), TRY_AGAIN)
    note(f"{attempt}, pod {pod['metadata']['name']}{_others(mine)}")
    try:
        for line in runs.log(pod, tail=arguments.tail):
            print(printable(line))
    except InvalidError as error:
        text = f"pod {pod['metadata']['name']} has no log: {error}. The run: {run.message}"
        raise CommandError(text, TRY_AGAIN) from None
    return OK


def _stage_pods(runs: Runs, run: RunView) -> list[Object]:
    """The pods of the run's stages. Anybody can put labels on a pod: those without the right ones are left out."""
    return [pod for pod in runs.pods(run.raw, {}) if _is_stage(pod["metadata"].get("labels") or {})]


def _is_stage(labels: dict[str, str]) -> bool:
    return labels.get(STAGE) in NAMES and all(_NUMBER.fullmatch(labels.get(name, "")) for name in (ITERATION, ATTEMPT))


def _attempt(pod: Object) -> Attempt:
    labels = pod["metadata"].get("labels") or {}
    return Attempt.of(int(labels[ITERATION]), labels[STAGE], int(labels[ATTEMPT]))


def _shard(pods: list[Object], shard: int | None) -> Object | None:
    """The newest pod of that shard; of the lowest shard by default."""
    fitting = [pod for pod in pods if shard is None or _index(pod) == shard]
    if not fitting:
        return None
    lowest = min(map(_index, fitting))
    newest = sorted(
        (pod for pod in fitting if _index(pod) == lowest), key=lambda pod: pod["metadata"]["creationTimestamp"]
    )
    return newest[-1]


def _index(pod: Object) -> int:
    metadata = pod["metadata"]
    index = (metadata.get("labels") or {}).get(JOB_INDEX) or (metadata.get("annotations") or {}).get(JOB_INDEX)
    return int(index) if index is not None and _NUMBER.fullmatch(index) else 0


def _others(pods: list[Object]) -> str:
    shards = sorted(set(map(_index, pods)))
    return f" (others: --shard {', '.join(map(str, shards[1:]))})" if len(shards) > 1 else ""


def _no_pod(run: RunView, attempt: Attempt, pods: list[Object], shard: int | None) -> str:
    if pods:
        return f"{attempt} has no shard {shard}; there are {', '.join(str(i) for i in sorted(set(map(_index, pods))))}"
    if run.status.active is not None and attempt == latest(run):
        return f"{attempt} has no pod yet: {run.message}"
    return (
        f"the pods of {attempt} are gone, and their logs with them: spec.cleanup says how long Jobs that are over stay"
    )


class ClusterFollower:
    """Prints the log of one stage after the other.

    Args:
        runs: of the cluster.
        name: of the run.
        shard: of stages with several pods.
        tail: lines of the first stage to begin with; None for all.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        runs: Runs,
        name: str,
        shard: int | None = None,
        tail: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runs, self._name = runs, name
        self._shard, self._tail = shard, tail
        self._sleep = sleep
        self._complete: set[str] = set()
        """UIDs of the pods whose logs were read to their ends."""
        self._printed: dict[str, int] = {}
        self._first: Attempt | None = None
        self._last_note = ""

    def follow(self) -> int:
        """Returns 0 once the run succeeded, 1 once it stalled."""
        run = find(self._runs, self._name)
        uid = run.raw["metadata"]["uid"]
        while True:
            try:
                advanced = self._advance(run)
                if run.ended and not advanced:
                    self._note(f"{self._name}: {run.phase}: {run.message}")
                    return OK if run.well else FAILED
                if not advanced:
                    self._sleep(INTERVAL)
                run = cluster_view(self._runs.get(self._name))
            except UnavailableError as error:
                self._note(f"{error}; still trying")
                self._sleep(INTERVAL)
                continue
            except NotFoundError:
                raise CommandError(f"the run {self._name} was deleted", FAILED) from None
            if run.raw["metadata"]["uid"] != uid:
                raise CommandError(f"the run {self._name} was deleted and made anew", FAILED)

    def _advance(self, run: RunView) -> bool:
        """Reads one more log; False if there is none that is new."""
        if not recorded(run.status):
            self._note(f"no stage has run yet: {run.message}")
            return False
        self._first = self._first or latest(run)
        pods = [pod for pod in _stage_pods(self._runs, run) if self._due(pod, self._first)]
        if not pods:
            self._note(f"waiting: {run.message}")
            return False
        attempt = min(map(_attempt, pods))
        mine = [pod for pod in pods if _attempt(pod) == attempt]
        pod = _shard(mine, self._shard)
        if pod is None:
            self._note(f"{attempt} has no shard {self._shard}")
            return False
        return self._stream(run, pod, attempt, mine)

    def _due(self, pod: Object, first: Attempt) -> bool:
        """It begins with the stage that runs; from then on none is left out, however short it was."""
        return pod["metadata"]["uid"] not in self._complete and _attempt(pod) >= first

    def _stream(self, run: RunView, pod: Object, attempt: Attempt, mine: list[Object]) -> bool:
        """Prints what is new. A stream may break off early; a log is read to its end once its pod had ended before."""
        name, uid, phase = pod["metadata"]["name"], pod["metadata"]["uid"], (pod.get("status") or {}).get("phase")
        if phase in {None, "Pending"}:
            self._note(f"{attempt}: pod {name} has not started: {run.message}")
            return False
        self._note(f"{attempt}, pod {name}{_others(mine)}")
        before = self._printed.get(uid, 0)
        # The lines before --tail were never counted: such a log goes on with what is new.
        tail = None if self._tail is None else self._tail if not before else 0
        skip = before if tail is None else 0
        try:
            for number, line in enumerate(self._runs.log(pod, tail=tail, follow=True)):
                if number >= skip:
                    print(printable(line), flush=True)
                    self._printed[uid] = self._printed.get(uid, 0) + 1
        except InvalidError as error:
            self._note(f"pod {name} has no log: {error}")
        if phase in {"Succeeded", "Failed"}:
            self._tail = None
            self._complete.update(str(one["metadata"]["uid"]) for one in mine)
            return True
        return self._printed.get(uid, 0) > before

    def _note(self, text: str) -> None:
        if text != self._last_note:
            self._last_note = text
            note(text)
