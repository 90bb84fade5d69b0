"""Which proxy leads to a server: of the kubeconfig, else of the environment by Go's rules, which are kubectl's.

They are those of golang.org/x/net/http/httpproxy. Python's own and requests' know no networks, or none of IPv6.
"""

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from ippo_operator.cluster.access.files import KubeconfigError

_PORTS = {"http": "80", "https": "443"}


def proxy_of(server: str, proxy_url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy's URL, with its user and password; None where there is none.

    Args:
        server: the API server's URL.
        proxy_url: of the kubeconfig; NO_PROXY does not count for it.
        environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in capitals or not.

    Raises:
        KubeconfigError: the proxy is none that can be used.
    """
    if proxy_url:
        return _checked(proxy_url, "proxy-url of the kubeconfig")
    parts = urlsplit(server)
    name = f"{parts.scheme.upper()}_PROXY"
    proxy = _variable(environment, name)
    port = str(parts.port or _PORTS[parts.scheme])
    if not proxy or _is_direct(str(parts.hostname), port, _variable(environment, "NO_PROXY")):
        return None
    return _checked(proxy if "://" in proxy else f"http://{proxy}", name)


def _variable(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.lower()) or "").strip()


def _checked(proxy: str, source: str) -> str:
    """Raises KubeconfigError, without user and password."""
    with suppress(ValueError):  # of a port that is no number
        parts = urlsplit(proxy)
        place = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        if parts.scheme in {"http", "https"} and place:
            return proxy
        if parts.scheme:
            raise KubeconfigError(
                f"the proxy {parts.scheme}://{place} is not supported ({source}); only http:// and https:// are"
            )
    raise KubeconfigError(f"the proxy of {source} is no URL; it has to be like http://proxy.example:3128")


def _is_direct(host: str, port: str, no_proxy: str) -> bool:
    """Whether NO_PROXY, or the host itself, says that there is no proxy."""
    host = host.lower().rstrip(".") or host
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    rules = [rule.strip().lower() for rule in no_proxy.split(",")]
    return "*" in rules or any(_fits(rule, host, address, port) for rule in rules if rule)


def _fits(rule: str, host: str, address: IPv4Address | IPv6Address | None, port: str) -> bool:
    if "/" in rule:
        with suppress(ValueError):
            network = ip_network(rule, strict=False)
            return address is not None and address.version == network.version and address in network
    name, rule_port = _split(rule)
    if not name or rule_port not in {"", port}:
        return False
    own = _address(name)
    if own is not None or address is not None:
        return own == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split(rule: str) -> tuple[str, str]:
    """Host and port; of an IPv6 address only in brackets."""
    if rule.startswith("["):
        name, _, rest = rule[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = rule.rpartition(":")
    return (name, port) if colon and ":" not in name else (rule, "")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """As Go has it: an IPv4 address that is written as IPv6 is the IPv4 address."""
    with suppress(ValueError):
        address = ip_address(text)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return mapped or address
    return None
