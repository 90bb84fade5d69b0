"""Requests to a run's servers, one after the other, from a pod beside them; every one is counted."""

import json
from typing import Self

from .kube import until
from .runs import Runs

_PROGRAM = """
import json, sys, time, urllib.request
url, model = sys.argv[1:]
body = json.dumps({"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hello i saw your shop"}]})
good = bad = 0
while True:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            json.load(answer)["choices"][0]["message"]["content"]
        good += 1
    except Exception as error:
        bad += 1
        print(json.dumps({"error": repr(error)[:300]}), flush=True)
    if (good + bad) % 10 == 0:
        print(json.dumps({"good": good, "bad": bad}), flush=True)
    time.sleep(0.05)
"""


class Load:
    """A client of a served run; use as a context manager.

    Args:
        runs: where.
        name: of the run.
    """

    def __init__(self, runs: Runs, name: str) -> None:
        self._runs = runs
        self._name = name
        self._pod = f"load-{name}"

    def __enter__(self) -> Self:
        where = self._runs.namespace
        url = f"http://{self._name}.{where}:8000/v1/chat/completions"
        drop = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        self._runs.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": self._pod, "namespace": where},
                "spec": {
                    "restartPolicy": "Never",
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [
                        {
                            "name": "load",
                            "image": self._runs.kube.place.trainer_image,
                            "command": ["python", "-c", _PROGRAM, url, self._name],
                            "securityContext": drop,
                            "resources": {"limits": {"memory": "128Mi", "cpu": "200m"}},
                        }
                    ],
                },
            }
        )
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        command = ("delete", "pod", self._pod, "-n", self._runs.namespace, "--grace-period=0", "--force")
        self._runs.kube.call("kubectl", *command)

    def more(self, count: int = 30) -> None:
        """Waits until so many more requests were answered."""
        before = self.good()
        until(lambda: self.good() >= before + count, f"{count} more requests are answered\n{self._log()}")

    def good(self) -> int:
        """Answers so far."""
        return max([line.get("good", 0) for line in self._lines()], default=0)

    def errors(self) -> list[str]:
        """What went wrong with requests."""
        return [line["error"] for line in self._lines() if "error" in line]

    def _lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._log().splitlines() if line.startswith("{")]

    def _log(self) -> str:
        return self._runs.kube.call("kubectl", "logs", self._pod, "-n", self._runs.namespace).stdout
