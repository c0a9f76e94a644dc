"""One HTTP request and its answer: connections, certificates, proxies, and failures in words."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast
from urllib.parse import urljoin
from weakref import WeakSet

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Timeout, Url, make_headers, parse_url

from reflayer import __version__
from reflayer.errors import RegistryError, printable
from reflayer.images.registry.certificates import tls_context
from reflayer.images.registry.handshake import is_no_tls
from reflayer.images.registry.proxies import proxy_for
from reflayer.images.registry.retry import StoppedError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from reflayer.images.registry.access import Access

_TIMEOUT = Timeout(connect=15, read=60)  # seconds; the latter between two pieces of an answer
_BLOCK = 1 << 20  # bytes that are sent at once
_DRAINED = 64 << 10  # bytes
_HEADERS = {"User-Agent": f"reflayer/{__version__}", "Accept-Encoding": "identity"}
_PORTS = {"http": 80, "https": 443}
_NO_ADDRESS = "an address that the registry gives is none of HTTP"

_Error = TypeVar("_Error", bound=BaseException)


class NotConnectedError(TemporaryError):
    """Nobody answers there."""


class NoTlsError(RegistryError):
    """Somebody answers, but does not speak TLS."""


class Origin(NamedTuple):
    """Where an address leads (RFC 6454): whom a secret is for."""

    scheme: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """The host, with its port if that is not the usual one."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"


def origin_of(url: str) -> Origin:
    """The origin of an address.

    Raises:
        RegistryError: it is none of HTTP.
    """
    try:
        parsed: Url = parse_url(url)
    except exceptions.LocationParseError:
        raise RegistryError(_NO_ADDRESS) from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise RegistryError(_NO_ADDRESS)
    port = _PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return Origin(parsed.scheme, parsed.host.lower(), port)


def address_in(location: str, url: str) -> str:
    """The address that a ``Location`` in an answer from ``url`` is (RFC 9110, 10.2.2).

    Raises:
        RegistryError: it is none.
    """
    try:
        return urljoin(url, location)
    except ValueError:
        raise RegistryError(_NO_ADDRESS) from None


class Transport:
    """Connections to several hosts, used by several threads; ``stop`` ends what is under way.

    Attributes:
        verify: whether certificates are checked.
        stop: is set when everybody is to give up.
    """

    def __init__(self, access: Access, stop: threading.Event) -> None:
        """Nothing is connected yet."""
        self.verify = access.tls_verify is not False
        self.stop = stop
        self._cert_dir = access.cert_dir
        self._managers: dict[Origin, urllib3.PoolManager] = {}
        self._opened: WeakSet[HTTPConnection] = WeakSet()
        self._classes = {
            "http": _watched(HTTPConnection, self._watch),
            "https": _watched(HTTPSConnection, self._watch),
        }
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

        Args:
            method: of HTTP.
            url: where to.
            headers: what ours are added to.
            body: what is sent.

        Raises:
            NotConnectedError, NoTlsError, TemporaryError, RegistryError: there is no answer.
            StoppedError: somebody asked to stop.
        """
        origin = origin_of(url)
        if self.stop.is_set():
            raise StoppedError
        with failing(origin.name, self.stop):
            manager = self._manager(origin)
            pool = manager.connection_from_host(origin.host, origin.port, origin.scheme)
            pool.ConnectionCls = self._classes[origin.scheme]
            response = manager.urlopen(
                method,
                url,
                headers={**_HEADERS, **headers},
                body=body,
                redirect=False,
                retries=False,
                timeout=_TIMEOUT,
                preload_content=False,
                decode_content=False,
            )
        return cast("urllib3.HTTPResponse", response)

    @contextmanager
    def answering(self, response: urllib3.HTTPResponse, host: str) -> Iterator[None]:
        """Read a body in the block; its failures come in words, and ``interrupt`` ends it."""
        try:
            with failing(host, self.stop):
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
        """Set ``stop``, and wake whoever waits for an answer, or the rest of one."""
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
        if proxy is None:
            return urllib3.PoolManager(maxsize=8, blocksize=_BLOCK, ssl_context=context)
        try:
            parsed = parse_url(proxy)
            secret = make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
            return urllib3.ProxyManager(
                parsed._replace(auth=None).url,
                proxy_headers=secret,
                maxsize=8,
                blocksize=_BLOCK,
                ssl_context=context,
            )
        except (exceptions.LocationValueError, exceptions.ProxySchemeUnknown):
            raise RegistryError(
                f"the proxy for {origin.name} (see {origin.scheme.upper()}_PROXY) is no http:// or "
                "https:// address"
            ) from None


def _watched(
    kind: type[HTTPConnection], watch: Callable[[HTTPConnection], None]
) -> type[HTTPConnection]:
    """Connections of a kind that ``watch`` is called with as soon as they are made."""

    class Watched(kind):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            super().connect()
            watch(self)

    return Watched


@contextmanager
def failing(host: str, stop: threading.Event) -> Iterator[None]:
    """Failures of urllib3 as ours, which name ``host``; StoppedError where ``stop`` is the cause.

    Raises:
        NotConnectedError, NoTlsError, TemporaryError, RegistryError: as they are.
    """
    try:
        yield
    except (exceptions.HTTPError, ssl.SSLError, ConnectionError, TimeoutError) as error:
        if stop.is_set():
            raise StoppedError from error
        raise _in_words(error, host) from error


def _in_words(error: Exception, host: str) -> RegistryError:
    # What urllib3 says has addresses in it, which may be secret.
    if isinstance(error, exceptions.ProxyError):
        inner = error.original_error
        return NotConnectedError(f"{host}: the proxy cannot be used: {_reason(inner)}")
    if isinstance(error, exceptions.NameResolutionError):
        return NotConnectedError(f"{host}: there is no such host, or no name server answers")
    if isinstance(error, (exceptions.NewConnectionError, exceptions.ConnectTimeoutError)):
        return NotConnectedError(f"{host}: cannot be reached: {_reason(error)}")
    tls = _find(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return RegistryError(
            f"{host}: its certificate is not trusted: {tls.verify_message}: put that of its "
            f"authority into /etc/docker/certs.d/{host}/ca.crt, or give --tls-verify=false"
        )
    if tls is not None:
        if is_no_tls(tls):
            return NoTlsError(f"{host}: does not speak TLS: --tls-verify=false allows plain HTTP")
        return TemporaryError(f"{host}: TLS failed: {_words(tls.reason or str(tls))}")
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return TemporaryError(f"{host}: nothing came for {_TIMEOUT.read_timeout:.0f} seconds")
    return TemporaryError(f"{host}: the connection broke off: {_reason(error)}")


def _reason(error: BaseException) -> str:
    system = _find(error, OSError)
    if isinstance(system, socket.gaierror):
        return "there is no such host, or no name server answers"
    if isinstance(system, TimeoutError):
        return "it took too long"
    if system is not None and system.strerror:
        return _words(system.strerror)
    if isinstance(error, exceptions.ConnectTimeoutError):
        return "it took too long"
    return "the answer ended too early" if _find(error, exceptions.IncompleteRead) else "too early"


def _words(text: str) -> str:
    return printable(text.replace("_", " ").strip()[:200])


def _find(error: BaseException | None, kind: type[_Error]) -> _Error | None:
    """The failure of this kind that ``error`` is, or was caused by."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, kind):
            return error
        inner = [one for one in error.args if isinstance(one, BaseException)]
        error = inner[0] if inner else error.__cause__ or error.__context__
        seen += 1
    return None
