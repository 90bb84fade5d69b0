"""What goes wrong between a user and a cluster: one line each, with the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cluster.access import files
from ippo_operator.cluster.access.kubeconfig import load

from tests.kit.fake_api import Object, answer
from tests.kit.fake_server import Server, kubeconfig
from tests.kit.ippo_command import Ippo

from .cluster_runs import begin

V1BETA1 = {"apiVersion": "client.authentication.k8s.io/v1beta1"}
VERBS = [["status"], ["logs"], ["approve"], ["reject"], ["suspend"], ["resume"], ["report"], ["explain"]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_knows_a_name_that_is_not_there(server: Server, ippo: Ippo, verb: list[str]) -> None:
    begin(server)
    begin(server, "sales", "elsewhere")
    for name, told in (
        ("smal", "there is no run smal in namespace team; did you mean small?\n"),
        ("zzz", "there is no run zzz in namespace team; there are: small\n"),
        ("sales", "there is no run sales in namespace team; there is one in elsewhere: give -n elsewhere\n"),
    ):
        said = ippo(*verb, name)
        assert (said.code, said.out, said.err) == (64, "", told)
    assert "nor any other; see all with: ippo status -A" in ippo(*verb, "other", "-n", "void").err


@pytest.mark.parametrize("verb", [*VERBS, ["status", "-A"]], ids=lambda verb: verb[-1])
def test_a_cluster_without_the_operator(server: Server, ippo: Ippo, verb: list[str]) -> None:
    server.installed = False
    said = ippo(*verb, *([] if "-A" in verb else ["small"]))
    assert said.code == 64
    assert said.err == (
        f"{server.url} knows no IterativePPORuns: install the operator's chart, or choose another cluster "
        "with --context\n"
    )


@pytest.mark.parametrize("name", ["", "Small", "a_b", "-x-", "x" * 64])
def test_what_is_no_name_of_a_run(server: Server, ippo: Ippo, name: str) -> None:
    said = ippo("suspend", "-n", "team", "--", name)
    assert said.code == 64
    assert (
        "for a run's name; allowed are at most 63 characters: a lower-case letter, then letters, digits and '-'"
        in said.err
    )


def test_wrong_credentials(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    server.kubeconfig(tmp_path, token="old")
    said = ippo("status", "small")
    assert said.code == 64
    assert "does not accept your credentials (401); log in again" in said.err
    assert "old" not in said.err


def test_no_rights(server: Server, ippo: Ippo) -> None:
    server.instead = lambda _m, _p: answer(403, "Forbidden", 'User "ada" cannot get resource')
    said = ippo("status", "small")
    assert said.code == 64
    assert said.err == (
        'not allowed: User "ada" cannot get resource; ask for the role edit (or view, to look only) in namespace team\n'
    )


def test_an_api_server_that_is_busy_or_gone(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    begin(server)
    busy = [answer(429, "TooManyRequests", "slow down", **{"Retry-After": "0"})]
    server.instead = lambda _m, _p: busy.pop() if busy else None
    assert ippo("status", "small").code == 0
    server.instead = lambda _m, _p: answer(503, "ServiceUnavailable", "no etcd", **{"Retry-After": "99"})
    said = ippo("status", "small")
    assert (said.code, said.err) == (75, "no etcd; try again\n")
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig("http://127.0.0.1:9", {})))
    said = ippo("status", "small")
    assert said.code == 75
    assert "cannot reach the API server http://127.0.0.1:9: connection refused" in said.err


def test_no_kubeconfig(ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    said = ippo("status", "small")
    assert said.code == 64
    assert "set KUBECONFIG or give --kubeconfig" in said.err
    assert "ippo status ./DIR" in said.err
    assert ippo("logs", "small", "--kubeconfig", "/no/such").err == "--kubeconfig /no/such: no such file\n"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("[]", "is not a kubeconfig"),
        ("{", "is not YAML"),
        ("", "has no current context; choose with --context: none"),
        ({"current-context": "gone"}, "has no context gone; there are: here"),
        ({"clusters": []}, "context here of"),
        ({"clusters": [{"cluster": {}}]}, "an entry of clusters has no name"),
        (kubeconfig("ftp://x", {}), "the kubeconfig's server ftp://x is not an http(s) URL"),
        (kubeconfig("http://x", {"auth-provider": {"name": "gcp"}}), "the auth-provider gcp is not supported"),
        (kubeconfig("http://x", {"client-key-data": "%"}), "client-key-data is not base64"),
        (kubeconfig("http://x", {"client-key": "gone.pem"}), "cannot read client-key"),
        (kubeconfig("https://x", {"tokenFile": "gone"}), "cannot read the token file"),
        (
            kubeconfig("https://x", {"exec": V1BETA1 | {"command": "no-such-plugin", "installHint": "Get it."}}),
            "installed. Get it.",
        ),
        (kubeconfig("https://x", {"exec": V1BETA1 | {"command": "false"}}), "ended with exit code 1; log in again"),
        (kubeconfig("https://x", {"exec": V1BETA1 | {"command": "true"}}), "printed no token and no certificate"),
        (kubeconfig("http://x", {}, **{"proxy-url": "socks5://y"}), "the proxy socks5://y is not supported"),
        (kubeconfig("https://x", {}, **{"certificate-authority-data": "eA=="}), "is no PEM certificate"),
    ],
)
def test_kubeconfigs_that_cannot_be_used(
    ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: Any, told: str
) -> None:
    path = tmp_path / "config"
    if isinstance(document, dict):
        document = json.dumps(kubeconfig("http://127.0.0.1:9", {}) | document)
    path.write_text(document)
    monkeypatch.setenv("KUBECONFIG", str(path))
    said = ippo("status", "small")
    assert (said.code, said.out) == (64, "")
    assert told in said.err
    assert len(said.err.splitlines()) == 1


def test_the_first_of_several_kubeconfigs_wins(
    server: Server, ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin(server)
    first: Object = kubeconfig(server.url, {"tokenFile": "token"}, None)
    (tmp_path / "first").mkdir()
    (tmp_path / "first/config").write_text(json.dumps(first))
    (tmp_path / "first/token").write_text(f"{server.token}\n")
    (tmp_path / "second").write_text(json.dumps(kubeconfig("http://127.0.0.1:9", {})))
    (tmp_path / "third").write_text(json.dumps(kubeconfig(server.url, {"token": server.token}, "team", "third")))
    places = [tmp_path / "gone", tmp_path / "first/config", tmp_path / "second", tmp_path / "third"]
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, places)))
    assert ippo("status", "-n", "team").out.splitlines()[1].startswith("small")
    assert ippo("status").out == "no runs in namespace default; all: ippo status -A\n"
    assert ippo("status", "--context", "third").out.splitlines()[1].startswith("small")


def test_a_credential_plugin_is_asked_once_and_again_when_its_token_ran_out(
    server: Server, ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin(server)
    plugin = tmp_path / "plugin"
    plugin.write_text(
        '#!/bin/sh\necho x >> "$LOG"\ntest -n "$KUBERNETES_EXEC_INFO" || exit 3\n'
        'if [ "$(wc -l < "$LOG")" -eq 1 ]; then token=old; else token=let-me-in; fi\n'
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1beta1\\", \\"kind\\": \\"ExecCredential\\", '
        '\\"status\\": {\\"token\\": \\"$token\\"}}"\n'
    )
    plugin.chmod(0o700)
    user = {"exec": V1BETA1 | {"command": "./plugin", "env": [{"name": "LOG", "value": str(tmp_path / "log")}]}}
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig(server.url, user)))
    assert ippo("status", "small").code == 0
    assert (tmp_path / "log").read_text() == "x\nx\n"


def test_in_a_pod_its_service_account_counts(
    server: Server, ippo: Ippo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setattr(files, "SERVICE_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("team\n")
    login = load()
    assert (login.server, login.namespace) == ("https://[fd00::1]:443", "team")
    assert "let-me-in" not in repr(login)
