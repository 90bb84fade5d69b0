"""NO_PROXY, as Go reads it."""

import pytest
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.proxies import proxy_of

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("10.11.12.13:6443", "10.0.0.0/8", True),
        ("10.11.12.13:6443", "11.0.0.0/8, 10.11.0.0/16", True),
        ("10.11.12.13:6443", "10.11.12.13/8", True),
        ("11.0.0.1:6443", "10.0.0.0/8", False),
        ("[fd00::1]:6443", "fd00::/8", True),
        ("[fe00::1]:6443", "fd00::/8", False),
        ("[fd00::1]:6443", "10.0.0.0/8", False),
        ("[::ffff:10.0.0.1]:6443", "10.0.0.0/8", True),
        ("10.0.0.1:6443", "10.0.0.1", True),
        ("10.0.0.1:6443", "10.0.0.1:6443", True),
        ("10.0.0.1:6443", "10.0.0.1:443", False),
        ("10.0.0.1", "10.0.0.1:443", True),
        ("[fd00::1]:6443", "fd00:0::1", True),
        ("[fd00::1]:6443", "[fd00::1]", True),
        ("[fd00::1]:6443", "[fd00::1]:6443", True),
        ("[fd00::1]:6443", "[fd00::1]:1", False),
        ("10.0.0.1:6443", "0.0.1", False),
        ("api.example.com", "example.com", True),
        ("example.com", "example.com", True),
        ("notexample.com", "example.com", False),
        ("api.example.com", ".example.com", True),
        ("example.com", ".example.com", False),
        ("api.example.com", "*.example.com", True),
        ("example.com", "*.example.com", False),
        ("API.Example.com", "EXAMPLE.COM", True),
        ("api.example.com:6443", "example.com:6443", True),
        ("api.example.com", "example.com:6443", False),
        ("api.example.com", "example.com:443", True),
        ("api.example.com", "other.org,*", True),
        ("api.example.com", "other.org, , example.com ", True),
        ("api.example.com", "", False),
        ("api.example.com", ":443", False),
        ("api.example.com", "10.0.0.0/33", False),
        ("localhost:6443", "", True),
        ("127.0.0.2:6443", "", True),
        ("[::1]:6443", "", True),
    ],
)
def test_what_needs_no_proxy(host: str, no_proxy: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        proxy = proxy_of(f"https://{host}", "", {"HTTPS_PROXY": PROXY, name: no_proxy})
        assert proxy == (None if direct else PROXY)
    assert proxy_of(f"https://{host}", PROXY, {"NO_PROXY": no_proxy}) == PROXY
    assert proxy_of(f"https://{host}", "", {"HTTP_PROXY": PROXY, "NO_PROXY": no_proxy}) is None


@pytest.mark.parametrize("proxy", ["socks5://ada:secret@x", "http://", "http://ada:secret@x:port", "://"])
def test_a_proxy_that_is_none_is_named_without_its_password(proxy: str) -> None:
    with pytest.raises(KubeconfigError, match=r"proxy.*HTTPS_PROXY") as caught:
        proxy_of("https://x.example", "", {"HTTPS_PROXY": proxy})
    assert "secret" not in str(caught.value)
