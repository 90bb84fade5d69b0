"""The documented command that teaches Argo CD about runs, on a ConfigMap however Argo CD was installed."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kit.control_plane import Api

from .conftest import make_namespace
from .helm import CHART, ROOT, Manifest, need, path

CUSTOMIZATION = CHART / "files" / "argocd" / "argocd-cm.yaml"
BEFORE: Manifest = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "argocd-cm", "namespace": "argocd", "labels": {"app.kubernetes.io/part-of": "argocd"}},
    "data": {"timeout.reconciliation": "10s"},
}


def command() -> list[str]:
    """The one of the tutorial."""
    page = (ROOT / "docs" / "tutorials" / "gitops.md").read_text()
    [line] = re.findall(r"(?m)^kubectl .*argocd-cm\.yaml$", page)
    return str(line).split()


@pytest.fixture(params=["", "--server-side"], ids=["client-side", "server-side"])
def installed(admin: Api, kubeconfig: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    make_namespace(admin, "argocd")
    flags = [request.param] if request.param else []
    call(kubeconfig, ["kubectl", "apply", *flags, "-f", "-"], yaml.safe_dump(BEFORE))
    yield
    admin.delete(path(BEFORE))


def call(kubeconfig: Path, words: list[str], text: str = "") -> None:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    done = subprocess.run(
        [need(words[0]), *words[1:]], input=text, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_what_was_there_stays(admin: Api, kubeconfig: Path, installed: None) -> None:
    for _ in range(2):  # an upgrade is the same command
        call(kubeconfig, command())
        after = admin.get(path(BEFORE)).body
        assert after["data"] == BEFORE["data"] | yaml.safe_load(CUSTOMIZATION.read_text())["data"]
        assert after["metadata"]["labels"] == BEFORE["metadata"]["labels"]


def test_the_files_name_the_same_command() -> None:
    words = " ".join(command())
    assert f"#   {words}\n" in (ROOT / "examples" / "gitops" / "argocd" / "operator.yaml").read_text()
    assert f"#   {words.replace(str(CUSTOMIZATION.parent.relative_to(ROOT)) + '/', '')}\n" in CUSTOMIZATION.read_text()
