"""A run of a minute, in a namespace of its own, and the same run on this machine to compare it with."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.kit.local_runs import EXAMPLES, SMALL

from . import artifacts
from .kube import MINUTES, Kube, Object, condition, story, until

SECRET = "keys"
_TABLES = "easy-customers.json"
_RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1536Mi"}}


def small(**sections: Any) -> dict[str, Any]:
    """The spec, with customers who are easy to please; what differs from run to run is in `sections`, None for one that
    is left out.

    The tables' path counts for digests as the spec names it, so it is relative: to /tmp in a pod, where the tables are
    mounted at /tables, and to the working directory on this machine.
    """
    spec: dict[str, Any] = json.loads(json.dumps(SMALL["spec"]))
    spec["collect"]["simulate"]["environment"]["options"]["tables"] = f"../tables/{_TABLES}"
    spec["iterations"] = {"max": 1}
    return {name: section for name, section in (spec | sections).items() if section is not None}


def secret(namespace: str, name: str, credentials: str) -> Object:
    """A Secret with an AWS credentials file. Not as stringData, which server-side apply does not change again."""
    data = {"credentials": base64.b64encode(credentials.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}


@dataclass(frozen=True)
class Runs:
    """Runs in one namespace.

    Args:
        kube: the cluster.
        namespace: with the Secret and the tables in it.
        bucket: for their artifacts.
        prefix: in the bucket.
    """

    kube: Kube
    namespace: str
    bucket: str
    prefix: str = ""

    def prepare(self, **pod_security: str) -> None:
        """The namespace, the Secret with the store's keys, and the ConfigMap with the tables."""
        self.kube.namespace(self.namespace, **pod_security)
        where = {"namespace": self.namespace}
        self.kube.apply(
            secret(self.namespace, SECRET, self.kube.place.store.credentials),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "tables", **where},
                "data": {_TABLES: (EXAMPLES / _TABLES).read_text()},
            },
        )

    def create(self, name: str, pods: dict[str, Any] | None = None, s3: Object | None = None, **sections: Any) -> None:
        """A run; see `manifest`."""
        self.kube.apply(self.manifest(name, pods, s3, **sections))

    def manifest(
        self, name: str, pods: dict[str, Any] | None = None, s3: Object | None = None, **sections: Any
    ) -> Object:
        """A run as it is applied.

        Args:
            name: of the run.
            pods: more of spec.pods.
            s3: in place of some of spec.artifacts.s3.
            sections: of the spec.
        """
        tables = {"name": "tables", "mountPath": "/tables", "configMap": {"name": "tables"}}
        settings = json.loads(json.dumps(pods or {}))
        common = {"resources": _RESOURCES, "volumes": [tables]} | settings.get("common", {})
        place = {"bucket": self.bucket, "endpointUrl": self.kube.place.store.endpoint, "credentialsSecretName": SECRET}
        if self.prefix:
            place["prefix"] = self.prefix
        spec = small(artifacts={"s3": place | (s3 or {})}, pods=settings | {"common": common}, **sections)
        return {
            "apiVersion": "ippo.dev/v1alpha1",
            "kind": "IterativePPORun",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def get(self, name: str) -> Object:
        """The run as it is."""
        return self.kube.get("ippo", self.namespace, name)

    def patch(self, name: str, **spec: Any) -> None:
        """Changes some of its spec."""
        self.kube.merge("ippo", self.namespace, name, {"spec": spec})

    def wait(self, name: str, kind: str, reason: str = "", seconds: float = 15 * MINUTES) -> Object:
        """The run, once that condition is True; fails at once if the run stalls meanwhile, and tells why."""

        def holds() -> bool:
            run = self.get(name)
            stalled = condition(run, "Stalled")
            assert kind == "Stalled" or stalled[0] != "True", f"stalled: {stalled[1:]}"
            status, why, _ = condition(run, kind)
            return status == "True" and reason in {"", why}

        try:
            until(holds, f"{name} is {kind} {reason}", seconds)
        except (TimeoutError, AssertionError) as error:
            raise AssertionError(f"{error}\n{story(self.kube, self.namespace, name)}") from None
        return self.get(name)

    def wait_stage(self, name: str, stage: str, seconds: float = 10 * MINUTES) -> Object:
        """A pod of that stage whose container runs."""

        def running() -> Object | None:
            pods = self.kube.list("pods", self.namespace, f"ippo.dev/run={name},ippo.dev/stage={stage}")
            return next((pod for pod in pods if _runs(pod)), None)

        running_pod: Object = until(running, f"a pod of {stage} of {name} runs", seconds, every=0.5)
        return running_pod

    def attempts(self, name: str) -> dict[str, int]:
        """How often each stage was tried, by iteration and stage."""
        iterations = self.get(name)["status"]["iterations"]
        return {f"{i['iteration']}/{s['stage']}": s["attempts"] for i in iterations for s in i["stages"]}

    def published(self, name: str) -> artifacts.Files:
        """All that the run has in the bucket."""
        uid = self.get(name)["metadata"]["uid"]
        prefix = f"{self.prefix}/{name}/{uid}" if self.prefix else f"{name}/{uid}"
        return artifacts.in_bucket(self.kube.place.store, self.bucket, prefix)


def _runs(pod: Object) -> bool:
    states = pod.get("status", {}).get("containerStatuses", [])
    return bool(states) and all("running" in state["state"] for state in states)


def on_this_machine(folder: Path, **sections: Any) -> artifacts.Files:
    """The same spec by `ippo run`; what it has published."""
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / _TABLES).write_text((EXAMPLES / _TABLES).read_text())
    work = folder / "work"
    work.mkdir()
    manifest = {**SMALL, "spec": small(**sections)}
    (work / "run.yaml").write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "ippo_operator.cli.main", "run", "-f", "run.yaml", "--out", "out"]
    done = subprocess.run(
        command, cwd=work, capture_output=True, text=True, timeout=1500, env={**os.environ, "AWS_PROFILE": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return artifacts.in_folder(work / "out" / "artifacts")
