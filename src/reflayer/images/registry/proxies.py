"""Which proxy leads to a host: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY``, as curl and Go do."""

from __future__ import annotations

import ipaddress
from urllib.request import getproxies_environment
from urllib.request import proxy_bypass_environment as bypassed  # type: ignore[attr-defined]


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """The URL of the proxy for an address, or None; never one for this machine's own addresses."""
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    no = proxies.get("no", "")
    if not proxy or is_loopback(host) or "*" in map(str.strip, no.split(",")):
        return None
    if bypassed(f"{host}:{port}", {"no": no.replace("*.", ".")}):
        return None
    if _in_networks(host, no):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name: ``localhost``, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):  # RFC 6761
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _in_networks(host: str, no_proxy: str) -> bool:
    """Whether ``no_proxy`` has a network, such as 10.0.0.0/8, that ``host`` is in."""
    address = _address(host)
    if address is None:
        return False
    for entry in no_proxy.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
