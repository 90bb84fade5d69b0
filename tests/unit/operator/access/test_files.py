"""Which files count, in which order, and what flags and the pod add."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.cluster.access import files
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Flags, Login, load


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(files, "SERVICE_ACCOUNT", tmp_path / "account")


def config(folder: Path, name: str, current: str | None = None, **parts: dict[str, Any]) -> Path:
    """A kubeconfig with these contexts, clusters and users by name."""
    document: dict[str, Any] = {"current-context": current} if current is not None else {}
    for section in ("contexts", "clusters", "users"):
        entries = parts.get(section, {})
        document[section] = [{"name": key, section[:-1]: value} for key, value in entries.items()]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def context(name: str, namespace: str | None = None) -> dict[str, Any]:
    return {"cluster": name, "user": name, "namespace": namespace}


def test_the_first_file_that_names_something_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config(tmp_path, "a/1", clusters={"x": {"server": "https://one", "certificate-authority": "ca"}})
    second = config(
        tmp_path,
        "b/2",
        current="x",
        contexts={"x": context("x", "two"), "y": context("y")},
        clusters={"x": {"server": "https://two", "tls-server-name": "two"}, "y": {"server": "https://y"}},
        users={"x": {"tokenFile": "../token"}},
    )
    third = config(tmp_path, "3", current="y", contexts={"x": context("y", "three")}, users={"x": {"token": "three"}})
    (tmp_path / "a/ca").write_text("-----BEGIN")
    (tmp_path / "token").write_text("t")
    places = ["", str(tmp_path / "gone"), str(first), str(second), "", str(third), str(first)]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(places))
    login = load()
    assert (login.server, login.namespace, login.context) == ("https://one", "two", "x")
    assert login.server_name == ""
    assert login.ca == b"-----BEGIN"
    assert login.user.token_file is not None
    assert login.user.token_file.read_text() == "t"
    assert load(Flags(context="y")).server == "https://y"
    only = load(Flags(kubeconfig=str(third), context="x", server="https://z"))
    assert (only.server, only.user.token) == ("https://z", "")


def test_paths_are_relative_to_the_file_as_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, Any] = {
        "contexts": {"x": context("x")},
        "clusters": {"x": {"server": "https://x"}},
        "users": {"x": {"exec": plugin("./bin/login") | {"env": None, "args": None}}},
    }
    (tmp_path / "link").mkdir()
    (tmp_path / "link/config").symlink_to(config(tmp_path, "real/config", "x", **parts))
    monkeypatch.chdir(tmp_path / "link")
    user = load(Flags(kubeconfig="config")).user
    assert user.plugin is not None
    assert user.plugin.command == str(tmp_path / "link/bin/login")
    parts["users"]["x"]["exec"]["command"] = "login"
    user = load(Flags(kubeconfig=str(config(tmp_path, "real/config", "x", **parts)))).user
    assert user.plugin is not None
    assert user.plugin.command == "login"


def plugin(command: str) -> dict[str, Any]:
    return {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command}


def test_a_kubeconfig_variable_of_empty_parts_does_not_mean_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = config(
        tmp_path, "home/.kube/config", "x", contexts={"x": context("x")}, clusters={"x": {"server": "https://h"}}
    )
    assert load().server == "https://h"
    monkeypatch.setenv("KUBECONFIG", "")
    assert load().server == "https://h"
    monkeypatch.setenv("KUBECONFIG", ":")
    with pytest.raises(KubeconfigError, match="no cluster"):
        load()
    monkeypatch.setenv("KUBECONFIG", f":{home}")
    assert load().server == "https://h"


@pytest.mark.parametrize(
    "text",
    [
        '{\n\t"current-context": "x",\n\t"contexts": [{"name": "x", "context": {"cluster": "x"}}],\n'
        '\t"clusters": [{"name": "x", "cluster": {"server": "https://h"}}]}',
        "\ufeffcurrent-context: x\ncontexts:\n- {name: x, context: {cluster: x, namespace: 2024-01-01}}\nusers: null\n"
        "clusters:\n- name: x\n  cluster:\n    server: https://h\n    extensions: [{name: e, extension: {a: 1}}]\n",
    ],
    ids=["JSON with tabs", "YAML with a mark and a date"],
)
def test_yaml_and_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "c").write_text(text, encoding="utf-8")
    login = load(Flags(kubeconfig=str(tmp_path / "c")))
    assert (login.server, login.namespace) == ("https://h", "2024-01-01" if "2024" in text else "default")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clusters: {x: 1}", "clusters is no list"),
        ("contexts: [{name: x, context: 3}]", "context is no mapping"),
        ("users: [{name: x}, {name: x}]", "users has two entries of the name x"),
        ("users: [{name: 1}]", "an entry of users has no name"),
        *(
            (f"kind: {odd}", "is not YAML")
            for odd in ("0x_", "0b_", "!!int x", "!!bool x", "!!timestamp x", "9" * 5000)
        ),
    ],
)
def test_what_is_no_kubeconfig(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(KubeconfigError, match=told):
        load(Flags(kubeconfig=str(tmp_path / "c")))


def test_a_file_that_cannot_be_read_is_no_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    with pytest.raises(KubeconfigError, match="cannot read the kubeconfig"):
        load()


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("https://h:6443/", "https://h:6443"),
        ("https://h/a/b?x=1#y", "https://h/a/b"),
        ("h:6443", "http://h:6443"),
        ("HTTPS://h", "https://h"),
        ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
    ],
)
def test_servers(server: str, url: str) -> None:
    assert load(Flags(server=server)).server == url


@pytest.mark.parametrize("server", ["ftp://h", "https://", "https://h:x", "https://h:99999", "https://a:b@h"])
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(KubeconfigError, match="the kubeconfig's server"):
        load(Flags(server=server))


def test_credentials_leave_this_machine_behind_tls_only() -> None:
    def token(server: str) -> str:
        return load(Flags(server=server, token="t")).user.token

    assert [token(f"http://{host}:1") for host in ("localhost", "127.0.0.1", "[::1]")] == ["t", "t", "t"]
    assert token("https://h") == "t"
    assert token("http://h") == token("http://10.0.0.1") == ""


def test_flags_count_more_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(
        tmp_path,
        "c",
        "x",
        contexts={"x": context("x", "one")},
        clusters={
            "x": {"server": "https://x", "certificate-authority-data": "eA==", "proxy-url": "http://p"},
            "y": {"server": "https://y", "insecure-skip-tls-verify": True},
        },
        users={"x": {"tokenFile": "t", "as": "a", "as-groups": ["g"]}, "y": {"token": "y"}},
    )
    monkeypatch.chdir(tmp_path)
    Path("ca").write_text("mine")

    def login(**flags: Any) -> Login:
        return load(Flags(kubeconfig=str(path), **flags))

    assert login(cluster="y").server == "https://y"
    assert login(user="y").user.token == "y"
    assert (login(server="https://z").server, login(server="https://z").proxy_url) == ("https://z", "http://p")
    assert (login(certificate_authority="ca").ca, login(cluster="y", certificate_authority="ca").insecure) == (
        b"mine",
        False,
    )
    assert (login(insecure_skip_tls_verify=True).ca, login(insecure_skip_tls_verify=True).insecure) == (b"", True)
    assert login(tls_server_name="n").server_name == "n"
    assert (login(token="t").user.token, login(token="t").user.token_file) == ("t", None)
    assert login(namespace="n").namespace == "n"
    assert login(as_user="b", as_uid="1").user.impersonation == (
        ("Impersonate-User", "b"),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Group", "g"),
    )
    assert ("Impersonate-Group", "h") in login(as_group=("h", "i")).user.impersonation
    for flags in ({"cluster": "z"}, {"user": "z"}, {"context": "z"}):
        with pytest.raises(KubeconfigError, match=r"has no (cluster|user|context) z; there are: x"):
            login(**flags)


def test_in_a_pod_its_service_account_counts_where_there_is_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (tmp_path / "account").mkdir()
    for name, text in (("token", "let-me-in"), ("namespace", "team\n"), ("ca.crt", "pem")):
        (tmp_path / "account" / name).write_text(text)
    login = load(Flags(as_user="eve"))
    assert (login.server, login.namespace, login.ca) == ("https://[fd00::1]:6443", "team", b"pem")
    assert login.user.token_file == tmp_path / "account/token"
    assert login.user.impersonation == (("Impersonate-User", "eve"),)
    config(tmp_path, "home/.kube/config")
    assert load().context == "in-cluster"
    config(tmp_path, "home/.kube/config", "x", contexts={"x": context("x")}, clusters={"x": {"server": "https://h"}})
    assert load().context == "x"


def test_secrets_are_in_no_repr() -> None:
    flags = Flags(server="https://h", token="let-me-in")
    assert "let-me-in" not in repr((flags, load(flags)))
