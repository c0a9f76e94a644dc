"""One HTTP request and its answer: connections, certificates, proxies, and how long to wait."""

from __future__ import annotations

import io
import ipaddress
import socket
import threading
from base64 import b64encode
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.client import HTTPResponse as PlainResponse
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urljoin
from urllib.request import getproxies_environment
from urllib.request import proxy_bypass_environment as bypassed  # type: ignore[attr-defined]
from weakref import WeakSet

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection
from urllib3.util import Timeout, Url, parse_url

from reflayer import __version__
from reflayer.errors import RegistryError
from reflayer.images.content.transfer import StoppedError
from reflayer.images.registry.retry import registry_errors
from reflayer.images.registry.tls import tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from reflayer.images.registry.credentials import Access

_CONNECTING = 15  # seconds
_SILENCE = 60  # seconds between two pieces of an answer, or until one of what we send is taken
_STORING = 900  # seconds until a registry answers an upload: many put it together only then
_CHANGING = ("PATCH", "PUT")
_BLOCK = 1 << 20  # bytes that are sent at once
_DRAINED = 64 << 10  # bytes
_MOST_LINES = 256 << 10  # bytes of headers, and of whatever else is no body
_BODY_PER_LINE = 4  # bytes of a body for each byte of the lines that tell the lengths of chunks
_ALIVE = [  # a host that is gone without a word is noticed long before _STORING is over (tcp(7))
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
]
_HEADERS = {"User-Agent": f"reflayer/{__version__}", "Accept-Encoding": "identity"}
_PORTS = {"http": 80, "https": 443}
_LONGEST_HOST = 255  # characters (RFC 1035)


class Origin(NamedTuple):
    """Scheme, host and port of an address (RFC 6454): what a secret is for."""

    scheme: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """The host, with its port if that is not the usual one."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"


def origin_of(url: str, giver: str = "the registry") -> Origin:
    """The origin of an address.

    Raises:
        RegistryError: it is none of HTTP, and ``giver`` should not have given it.
    """
    try:
        parsed: Url = parse_url(url)
        host = parsed.host or ""
    except exceptions.LocationParseError:
        host = ""
    if not 0 < len(host) <= _LONGEST_HOST or parsed.scheme not in _PORTS:
        raise RegistryError(f"{giver}: gives an address that is none of HTTP")
    port = _PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return Origin(parsed.scheme, host.lower(), port)


def is_of_api(url: str) -> bool:
    """Whether an address, which has an origin, is of a registry's API or something else there."""
    return (parse_url(url).path or "").startswith("/v2/")


def address_in(location: str, url: str) -> str:
    """The address that a ``Location`` in an answer from ``url`` is (RFC 9110, 10.2.2).

    Raises:
        RegistryError: it is none of HTTP.
    """
    try:
        address = urljoin(url, location)
    except ValueError:
        address = ""
    origin_of(address, origin_of(url).name)
    return address


class Transport:
    """Connections to several hosts, used by several threads; ``stop`` ends what is under way.

    Attributes:
        verify: whether certificates are checked.
        stop: is set when all threads are to give up.
    """

    def __init__(self, access: Access, stop: threading.Event) -> None:
        """Nothing is connected yet."""
        self.verify = access.tls_verify is not False
        self.stop = stop
        self._cert_dir = access.cert_dir
        self._managers: dict[Origin, urllib3.PoolManager] = {}
        self._opened: WeakSet[HTTPConnection] = WeakSet()
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> urllib3.HTTPResponse:
        """Send one request; no redirect is followed, nothing is tried again.

        The answer's body is to be read within ``answering``.

        Raises:
            NotConnectedError, NoTlsError, TemporaryError, RegistryError: there is no answer.
            StoppedError: ``stop`` is set.
        """
        origin = origin_of(url)
        if self.stop.is_set():
            raise StoppedError
        silence = _STORING if method in _CHANGING else _SILENCE
        with registry_errors(origin.name, self.stop, silence):
            manager = self._manager(origin)
            pool = manager.connection_from_host(origin.host, origin.port, origin.scheme)
            kind = cast("type[HTTPConnection]", pool.ConnectionCls)
            if kind.response_class is not _Response:
                pool.ConnectionCls = _watched(kind, self._watch)
            response = manager.urlopen(
                method,
                url,
                headers={**_HEADERS, **headers},
                body=body,
                redirect=False,
                retries=False,
                timeout=Timeout(connect=_CONNECTING, read=silence),
                preload_content=False,
                decode_content=False,
            )
        return cast("urllib3.HTTPResponse", response)

    @contextmanager
    def answering(self, response: urllib3.HTTPResponse, host: str) -> Iterator[None]:
        """Read a body in the block; its failures come in words, and ``interrupt`` ends it."""
        try:
            with registry_errors(host, self.stop, _SILENCE):
                yield
        finally:
            self.finish(response)

    def finish(self, response: urllib3.HTTPResponse) -> None:
        """Keep the connection for the next request where little of the answer is left."""
        left = response.length_remaining
        if left is not None and left <= _DRAINED and not self.stop.is_set():
            response.drain_conn()
        else:
            response.close()

    def interrupt(self) -> None:
        """Set ``stop``, and wake the threads that wait for an answer, or the rest of one."""
        self.stop.set()
        with self._lock:
            opened = list(self._opened)
        for connection in opened:
            if connection.sock is not None:
                with suppress(OSError):  # its other end was faster
                    # The method of an SSLSocket takes away what another thread is reading from.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections that are kept."""
        for manager in self._managers.values():
            manager.clear()

    def _watch(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._opened.add(connection)
        if self.stop.is_set():  # perhaps too late for ``interrupt``
            raise StoppedError

    def _manager(self, origin: Origin) -> urllib3.PoolManager:
        with self._lock:
            if origin not in self._managers:
                self._managers[origin] = self._new_manager(origin)
            return self._managers[origin]

    def _new_manager(self, origin: Origin) -> urllib3.PoolManager:
        context = None
        if origin.scheme == "https":
            context = tls_context(origin.name, verify=self.verify, cert_dir=self._cert_dir)
        proxy = proxy_for(*origin)
        settings: dict[str, Any] = {
            "maxsize": 8,
            "blocksize": _BLOCK,
            "socket_options": _ALIVE,
            "ssl_context": context,
        }
        if proxy is None:
            return urllib3.PoolManager(**settings)
        try:
            parsed = parse_url(proxy)
            user, _, password = map(unquote, (parsed.auth or "").partition(":"))
            if (scheme := parsed.scheme) in _SOCKS:
                from urllib3.contrib.socks import SOCKSProxyManager

                url = parsed._replace(auth=None, scheme=_SOCKS[scheme]).url
                return SOCKSProxyManager(url, user or None, password or None, **settings)
            secret = b64encode(f"{user}:{password}".encode()).decode()
            headers = {"Proxy-Authorization": f"Basic {secret}"} if user else None
            url = parsed._replace(auth=None).url
            return urllib3.ProxyManager(url, proxy_headers=headers, **settings)
        except (exceptions.LocationValueError, exceptions.ProxySchemeUnknown):
            raise RegistryError(
                f"the proxy for {origin.name} (see {origin.scheme.upper()}_PROXY) is no http://, "
                "https:// or socks5:// address"
            ) from None


_SOCKS = {"socks5": "socks5h", "socks5h": "socks5h", "socks4": "socks4a", "socks4a": "socks4a"}
"""Names are for the proxy to resolve, as in Go, and so in Docker: it may know more of them."""


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


def _watched(
    kind: type[HTTPConnection], watch: Callable[[HTTPConnection], None]
) -> type[HTTPConnection]:
    """Connections of a kind that ``watch`` is called with as soon as they are made.

    Sending waits as long as receiving.
    """

    class Watched(kind):  # type: ignore[valid-type, misc]
        response_class = _Response

        def connect(self) -> None:
            super().connect()
            watch(self)

        def request(self, *arguments: Any, **named: Any) -> None:
            if self.sock is None:
                self.connect()
            self.timeout = _SILENCE  # urllib3 has the time to connect for each piece that is sent
            super().request(*arguments, **named)

    return Watched


class _Response(PlainResponse):
    """An answer that ``http.client`` reads from what has an end."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.fp = _Bounded(self.fp.detach())


class _Bounded(io.BufferedReader):
    """What a server sends.

    ``http.client`` limits a line, and the headers of one answer; but reads provisional answers,
    trailers and the lengths of empty chunks for ever, and all there is for a chunk of length -1.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self._lines = _MOST_LINES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._lines -= len(line)
        if self._lines < 0:
            raise HTTPException("too much that is no body")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise HTTPException("a chunk of no length")
        data = super().read(size)
        self._lines += len(data) // _BODY_PER_LINE
        return data
