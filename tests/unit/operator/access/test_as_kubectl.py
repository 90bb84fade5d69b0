"""What kubectl does with a kubeconfig, `ippo` and the operator do: one table, a real TLS server and a real proxy."""

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_operator.cluster.access.parts import EXEC_GROUP
from ippo_operator.cluster.errors import ApiError, UnavailableError

from .authority import issue
from .conftest import INNER, NAME, Ask, World, by_kubectl, encoded
from .peers import Proxy

FAR = f"https://{NAME}:6443"
TOKEN = {"token": "abc"}


class Way(NamedTuple):
    """A cluster, an environment, and the tunnel that is asked for."""

    cluster: Callable[[World], dict[str, Any]]
    environment: Callable[[World], dict[str, str]]
    tunnel: str | None


def far(world: World) -> dict[str, Any]:
    return world.trusted(FAR)


def near(world: World) -> dict[str, Any]:
    return world.trusted()


WAYS = {
    "straight": Way(near, lambda _: {}, None),
    "by HTTPS_PROXY": Way(far, lambda w: {"HTTPS_PROXY": w.proxy_url}, f"{NAME}:6443"),
    "by https_proxy": Way(far, lambda w: {"https_proxy": w.proxy_url}, f"{NAME}:6443"),
    "by a proxy without a scheme": Way(far, lambda w: {"HTTPS_PROXY": w.proxy_url.partition("//")[2]}, f"{NAME}:6443"),
    "capitals count more": Way(
        far, lambda w: {"HTTPS_PROXY": w.proxy_url, "https_proxy": "http://x:1"}, f"{NAME}:6443"
    ),
    "HTTP_PROXY is for http": Way(near, lambda _: {"HTTP_PROXY": "http://127.0.0.1:1"}, None),
    "ALL_PROXY is nothing to Go": Way(near, lambda _: {"ALL_PROXY": "http://127.0.0.1:1"}, None),
    "loopback needs no proxy": Way(near, lambda _: {"HTTPS_PROXY": "http://127.0.0.1:1"}, None),
    "another name in NO_PROXY": Way(
        far, lambda w: {"HTTPS_PROXY": w.proxy_url, "NO_PROXY": "10.0.0.0/8,example.org"}, f"{NAME}:6443"
    ),
    "by proxy-url": Way(
        lambda w: world_with_proxy_url(w),
        lambda _: {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"},
        f"{NAME}:443",
    ),
    "with an authority between": Way(
        lambda w: {"server": w.here, "certificate-authority-data": encoded(w.between.certificate)}, lambda _: {}, None
    ),
    "with text around the authority": Way(
        lambda w: {
            "server": w.here,
            "certificate-authority-data": encoded("# Übung\r\n".encode() + w.root.certificate + b"\n# end"),
        },
        lambda _: {},
        None,
    ),
    "base64 in lines": Way(
        lambda w: {
            "server": w.here,
            "certificate-authority-data": "\n".join(in_lines(encoded(w.root.certificate))) + "\n",
        },
        lambda _: {},
        None,
    ),
    "insecure": Way(lambda w: {"server": w.here, "insecure-skip-tls-verify": True}, lambda _: {}, None),
}


def world_with_proxy_url(world: World) -> dict[str, Any]:
    world.proxy.password = "us er:p@ss:word"
    return world.trusted(f"https://{NAME}", proxy_url=f"http://us%20er:p%40ss:word@127.0.0.1:{world.proxy.port}")


def in_lines(text: str) -> list[str]:
    return [text[start : start + 64] for start in range(0, len(text), 64)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_the_way_to_the_server(world: World, ask_any: Ask, monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    cluster = way.cluster(world)
    for name, value in way.environment(world).items():
        monkeypatch.setenv(name, value)
    answer = ask_any(Flags(kubeconfig=str(world.write(cluster, TOKEN))))
    assert answer["authorization"] == "Bearer abc"
    assert set(world.proxy.asked) == ({way.tunnel} if way.tunnel else set())


def test_a_proxy_behind_tls(world: World, ask_any: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "proxy.pem").write_bytes(issue("proxy", world.root, ("127.0.0.1",)).whole)
    with Proxy(world.server.port, "ada:secret", certificate=world.folder / "proxy.pem") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://ada:secret@127.0.0.1:{proxy.port}")
        answer = ask_any(Flags(kubeconfig=str(world.write(far(world), TOKEN))))
    assert answer["authorization"] == "Bearer abc"
    assert set(proxy.asked) == {f"{NAME}:6443"}


def test_without_tls_no_credentials_pass_a_proxy(world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", world.proxy_url)
    answer = ask(Flags(kubeconfig=str(world.write({"server": f"http://{NAME}"}, TOKEN))), "/api")
    assert answer == {"path": f"http://{NAME}/api", "authorization": ""}


def test_a_server_behind_a_path(world: World, ask: Ask) -> None:
    cluster = world.trusted(f"{world.here}/k8s/clusters/c-1/")
    assert ask(Flags(kubeconfig=str(world.write(cluster, TOKEN))), "/api")["path"] == "/k8s/clusters/c-1/api"


def test_a_name_of_its_own_for_the_certificate(world: World, ask: Ask) -> None:
    flags = Flags(kubeconfig=str(world.write(world.trusted(tls_server_name=INNER), TOKEN)))
    assert ask(flags)["authorization"] == "Bearer abc"
    assert world.server.names[-1] == INNER
    world.write(world.trusted(tls_server_name="other.example"), TOKEN)
    with pytest.raises(UnavailableError, match="its certificate is not trusted"):
        ask(flags)


def users(world: World) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Users, and what the server is shown."""
    (world.folder / "ada.crt").write_bytes(world.ada.certificate)
    (world.folder / "ada.key").write_bytes(world.ada.key)
    (world.folder / "token").write_text("of-a-file\n")
    certificate = json.dumps(world.ada.certificate.decode())
    key = json.dumps(world.ada.key.decode())
    both = world.plugin(f'{{"clientCertificateData": {certificate}, "clientKeyData": {key}}}')
    others = {"as": "eve", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"Acme/Scope": ["x", "y"]}}
    good = ".".join(("e30", base64.urlsafe_b64encode(b'{"exp": 99999999999}').decode().rstrip("="), "s"))
    issuer = {"idp-issuer-url": "https://issuer.example", "client-id": "ippo"}
    impersonation = [
        ["impersonate-extra-acme%2fscope", "x"],
        ["impersonate-extra-acme%2fscope", "y"],
        ["impersonate-group", "a"],
        ["impersonate-group", "b"],
        ["impersonate-uid", "7"],
        ["impersonate-user", "eve"],
    ]
    return {
        "token": (TOKEN, {"authorization": "Bearer abc"}),
        "tokenFile": ({"tokenFile": "token"}, {"authorization": "Bearer of-a-file"}),
        "tokenFile counts more": (TOKEN | {"tokenFile": "token"}, {"authorization": "Bearer of-a-file"}),
        "password": ({"username": "ada", "password": "ü:"}, {"authorization": "Basic YWRhOsO8Og=="}),
        "certificate": (world.certificate(), {"user": "ada"}),
        "certificate in files": ({"client-certificate": "ada.crt", "client-key": "ada.key"}, {"user": "ada"}),
        "certificate and token": (world.certificate() | TOKEN, {"user": "ada", "authorization": "Bearer abc"}),
        "certificate of a plugin": (both, {"user": "ada", "authorization": ""}),
        "token counts more than a plugin": (both | TOKEN, {"user": "", "authorization": "Bearer abc"}),
        "oidc": (
            {"auth-provider": {"name": "oidc", "config": issuer | {"id-token": good}}},
            {"authorization": f"Bearer {good}"},
        ),
        "another": (TOKEN | others, {"impersonation": impersonation}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "tokenFile",
        "tokenFile counts more",
        "password",
        "certificate",
        "certificate in files",
        "certificate and token",
        "certificate of a plugin",
        "token counts more than a plugin",
        "oidc",
        "another",
    ],
)
def test_who_asks(world: World, ask_any: Ask, name: str) -> None:
    user, shown = users(world)[name]
    answer = ask_any(Flags(kubeconfig=str(world.write(world.trusted(), user))))
    assert {key: answer[key] for key in shown} == shown


def test_nobody_asks(world: World, ask: Ask) -> None:
    answer = ask(Flags(kubeconfig=str(world.write(world.trusted(), {}))))
    assert (answer["user"], answer["authorization"], answer["impersonation"]) == ("", "", [])


def test_credentials_go_to_the_server_alone(world: World, ask: Ask) -> None:
    with pytest.raises(ApiError) as caught:
        ask(Flags(kubeconfig=str(world.write(world.trusted(), TOKEN))), "/elsewhere")
    assert caught.value.status == 302
    assert world.server.shown == ["Bearer abc"]


def test_compression_that_is_not_wanted(world: World, ask: Ask) -> None:
    flags = Flags(kubeconfig=str(world.write(world.trusted(disable_compression=True), TOKEN)))
    assert ask(flags)["encoding"] == "identity"


BROKEN: dict[str, Callable[[World], tuple[Any, Any, str]]] = {
    "a proxy that wants a password": lambda w: (
        w.trusted(FAR, proxy_url=f"http://ada:secret@127.0.0.1:{with_password(w)}"),
        TOKEN,
        "the proxy answers 407 Proxy Authentication Required; check the user and password in the proxy's URL",
    ),
    "a proxy that is not there": lambda w: (
        w.trusted(proxy_url="http://ada:secret@127.0.0.1:1"),
        TOKEN,
        "its proxy 127.0.0.1:1 cannot be reached (Connection refused); check proxy-url of the kubeconfig",
    ),
    "a proxy that nobody knows": lambda w: (
        w.trusted(FAR, proxy_url="http://ada:secret@no-such-name.invalid:1"),
        TOKEN,
        "its proxy no-such-name.invalid:1 cannot be reached (",
    ),
    "a name that nobody knows": lambda w: (w.trusted("https://no-such-name.invalid"), TOKEN, "its name is not known"),
    "a server that is not there": lambda w: (w.trusted("https://127.0.0.1:1"), TOKEN, "connection refused"),
    "an authority that is not known": lambda w: ({"server": w.here}, TOKEN, "its certificate is not trusted"),
}


def with_password(world: World) -> int:
    world.proxy.password = "ada:other"
    return world.proxy.port


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_reached_is_one_line(
    world: World, ask: Ask, case: Callable[[World], tuple[Any, Any, str]]
) -> None:
    cluster, user, told = case(world)
    with pytest.raises(UnavailableError) as caught:
        ask(Flags(kubeconfig=str(world.write(cluster, user))))
    message = str(caught.value)
    assert message.startswith(f"cannot reach the API server {cluster['server']}: ")
    assert told in message
    assert "secret" not in message
    assert len(message.splitlines()) == 1


KUBECTL_TAKES = {"socks"}
UNUSABLE: dict[str, Callable[[World], tuple[dict[str, Any], dict[str, Any], str]]] = {
    "socks": lambda _: (
        {"proxy-url": "socks5://ada:secret@proxy:1080"},
        {},
        "the proxy socks5://proxy:1080 is not",
    ),
    "no proxy": lambda _: ({"proxy-url": "proxy"}, {}, "the proxy of proxy-url of the kubeconfig is no URL"),
    "two authorities": lambda _: ({"certificate-authority": "x"}, {}, "are both given; keep one"),
    "trust and none": lambda _: (
        {"insecure-skip-tls-verify": True},
        {},
        "beside a certificate-authority is not",
    ),
    "a number for a token": lambda _: ({}, {"token": 12345678}, "user u: token: Input should be a valid string"),
    "a token of two lines": lambda _: ({}, {"token": "sec\nret"}, "token holds a line break"),
    "token and password": lambda _: ({}, TOKEN | {"username": "ada"}, "token and username are both given"),
    "a certificate alone": lambda w: (
        {},
        {"client-certificate-data": encoded(w.ada.certificate)},
        "client-key is missing",
    ),
    "an encrypted key": lambda w: (
        {},
        w.certificate() | {"client-key-data": encoded(w.ada.encrypted(b"secret"))},
        "the client key is encrypted, which is not supported",
    ),
    "another's key": lambda w: (
        {},
        w.certificate() | {"client-key-data": encoded(issue("eve").key)},
        "client certificate and key do not fit",
    ),
    "groups without a user": lambda _: ({}, TOKEN | {"as-groups": ["a"]}, "as is missing beside as-uid, as-groups"),
    "a provider": lambda _: ({}, {"auth-provider": {"name": "gcp"}}, "the auth-provider gcp is not supported"),
    "a plugin without a version": lambda _: ({}, {"exec": {"command": "x"}}, "exec.apiVersion: Field required"),
    "a plugin of an old version": lambda _: (
        {},
        {"exec": {"command": "x", "apiVersion": f"{EXEC_GROUP}/v1alpha1"}},
        "exec: apiVersion is not supported",
    ),
    "a plugin that does not say whether it asks": lambda _: (
        {},
        {"exec": {"command": "x", "apiVersion": f"{EXEC_GROUP}/v1"}},
        "exec: interactiveMode is missing",
    ),
    "a plugin that must ask": lambda _: (
        {},
        {"exec": {"command": "x", "apiVersion": f"{EXEC_GROUP}/v1", "interactiveMode": "Always"}},
        "needs a terminal to ask you",
    ),
    "a plugin that speaks another version": lambda w: (
        {},
        {"exec": w.plugin('{"token": "secret"}', "v1beta1")["exec"] | {"apiVersion": f"{EXEC_GROUP}/v1"}},
        "answers as client.authentication.k8s.io/v1beta1",
    ),
    "a plugin that prints nothing": lambda w: ({}, w.plugin("null"), "it printed no token and no certificate"),
    "a plugin that prints half": lambda w: (
        {},
        w.plugin('{"clientKeyData": "secret"}'),
        "it printed a certificate or a key without the other",
    ),
    "a plugin that fails": lambda w: ({}, w.plugin("null", before="exit 3"), "ended with exit code 3; log in again"),
}


@pytest.mark.parametrize("case", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_one_line(
    world: World, ask: Ask, monkeypatch: pytest.MonkeyPatch, case: Callable[[World], tuple[Any, Any, str]]
) -> None:
    cluster, user, told = case(world)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(KubeconfigError) as caught:
        ask(Flags(kubeconfig=str(world.write(world.trusted() | cluster, user))))
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "12345678" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert world.server.shown == []


@pytest.mark.parametrize("name", [name for name in UNUSABLE if name not in KUBECTL_TAKES])
def test_kubectl_refuses_it_too(world: World, name: str) -> None:
    cluster, user, _ = UNUSABLE[name](world)
    with pytest.raises(AssertionError):
        by_kubectl(Flags(kubeconfig=str(world.write(world.trusted() | cluster, user))))
    assert world.server.shown == []
