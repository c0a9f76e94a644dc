"""HTTP requests and their answers: connections, proxies, redirects, refusals in words, limits."""

from __future__ import annotations

import io
import ipaddress
import json
import socket
import threading
import zlib
from base64 import b64encode
from contextlib import contextmanager, suppress
from http import HTTPStatus
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
from urllib3.poolmanager import PoolKey
from urllib3.util import Timeout, Url, parse_url

from reflayer import __version__
from reflayer.errors import MissingError, RegistryError, printable
from reflayer.images.content.transfer import StoppedError
from reflayer.images.registry.retry import (
    TemporaryError,
    registry_errors,
    seconds_to_wait,
)
from reflayer.images.registry.tls import tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from reflayer.images.registry.credentials import Access

    Body = Callable[[], bytes | Iterable[bytes]]

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

_MOST_REDIRECTS = 8
REDIRECTS = (301, 302, 303, 307, 308)
_SAME_METHOD = (307, 308)
_TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504, *range(520, 531)))
"""From 520 on they are Cloudflare's: it has no good answer from the registry behind it."""
_LARGEST_ERROR = 64 << 10  # bytes
_PIECE = 64 << 10  # bytes; some pieces are made of many
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_LONGEST_MESSAGE = 300  # characters


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
    """The origin of an address; an error where that is none of HTTP, told of who gave it."""
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
    """The address that a ``Location`` in an answer from ``url`` is (RFC 9110, 10.2.2)."""
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
                enforce_content_length=True,  # not by itself before urllib3 2
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
        settings: dict[str, Any] = {"maxsize": 8, "ssl_context": context, "socket_options": _ALIVE}
        if "key_blocksize" in PoolKey._fields:  # from urllib3 2 on
            settings["blocksize"] = _BLOCK
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


def follow(
    transport: Transport,
    method: str,
    url: str,
    headers: Mapping[str, str],
    authorization: str | None,
    trusted: Origin,
    body: Body | None = None,
) -> tuple[urllib3.HTTPResponse, Origin]:
    """Send a request, also where it is redirected to; return the answer, and whose it is.

    A redirect of a method that changes something is followed only where it keeps the method.
    ``authorization`` goes to ``trusted`` and nowhere else; where a redirect leads out of the API,
    only if it is refused without: a signature in the address may be all that it takes.
    ``body`` is called once for each time that it is sent.
    """
    secure = trusted.scheme == "https" and transport.verify
    of_api = is_of_api(url)
    for _ in range(_MOST_REDIRECTS):
        origin = origin_of(url)
        if secure and origin.scheme != "https":
            raise RegistryError(f"{trusted.name}: redirects to plain HTTP at {origin.name}")
        secret = {"Authorization": authorization} if authorization and origin == trusted else {}
        for given in ({}, secret) if secret and of_api and not is_of_api(url) else (secret,):
            response = transport.send(method, url, {**headers, **given}, body() if body else None)
            if given is secret or response.status not in (401, 403):
                break
            transport.finish(response)
        location = response.headers.get("Location")
        if response.status not in REDIRECTS or location is None:
            return response, origin
        if method not in ("GET", "HEAD") and response.status not in _SAME_METHOD:
            return response, origin
        transport.finish(response)
        url = address_in(location, url)
    raise RegistryError(f"{trusted.name}: redirects more than {_MOST_REDIRECTS} times")


def refuse_status(response: urllib3.HTTPResponse, host: str, what: str, missing: str = "") -> None:
    """Raise an error that says ``what`` is not possible, unless ``host`` answers with success.

    Where something is not there, ``missing`` says so.
    """
    if 200 <= response.status < 300:
        return
    if response.status == HTTPStatus.NOT_FOUND:
        raise MissingError(f"{host}: {missing or what}: {said(response)}")
    reason = f"{host}: {what}: {said(response)}"
    if response.status in _TEMPORARY:
        raise TemporaryError(reason, seconds_to_wait(response.headers.get("Retry-After")))
    raise RegistryError(reason)


def read_limited(response: urllib3.HTTPResponse, most: int, host: str) -> bytes:
    """All of a JSON document, which has ``most`` bytes at most."""
    claimed = response.headers.get("Content-Length", "")
    if claimed.isdecimal() and int(claimed[:20]) > most:
        raise RegistryError(f"{host}: answers with {claimed[:20]} bytes where {most} are the most")
    data = b""
    # Only a read at the end tells whether it is one: of less than was promised a part is no error.
    while piece := response.read(min(most + 1 - len(data), _PIECE)):
        data += piece
        if len(data) > most:
            raise RegistryError(f"{host}: answers with more than {most} bytes")
    if data[:1] in (b"\x1f", b"\x78"):  # gzip or deflate, by some cache on the way: JSON cannot be
        try:
            data = zlib.decompressobj(_GZIP_OR_ZLIB).decompress(data, most + 1)
        except zlib.error as error:
            raise RegistryError(f"{host}: its answer is compressed, but damaged") from error
        if len(data) > most:
            raise RegistryError(f"{host}: answers with more than {most} bytes")
    return data


def said(response: urllib3.HTTPResponse) -> str:
    """The status, and what a registry says of it (distribution-spec, "Error Codes")."""
    try:
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        status = str(response.status)
    data = response.read(_LARGEST_ERROR)
    try:
        errors = json.loads(data)["errors"]
        message = errors[0].get("message") or errors[0].get("code")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return status  # it need not say anything
    if not isinstance(message, str):
        return status
    return f"{status}: {printable(message[:_LONGEST_MESSAGE])}"


_SOCKS = {"socks5": "socks5h", "socks5h": "socks5h", "socks4": "socks4a", "socks4a": "socks4a"}
"""Names are for the proxy to resolve, as in Go, and so in Docker: it may know more of them."""


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """The URL of the proxy for an address, or None; never one for this machine's own addresses."""
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    no = proxies.get("no", "")
    if not proxy or is_loopback(host) or "*" in map(str.strip, no.split(",")):
        return None
    if bypassed(f"{host}:{port}", {"no": no.replace("*.", ".")}) or _in_networks(host, no):
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
