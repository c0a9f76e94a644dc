"""Why there was no answer, in words: one clear line without an address that may be secret."""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from http.client import IncompleteRead, RemoteDisconnected
from typing import Any, TypeVar

from urllib3 import exceptions

from reflayer.errors import RegistryError, printable
from reflayer.images.registry.handshake import is_no_tls
from reflayer.images.registry.retry import StoppedError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_Error = TypeVar("_Error", bound=BaseException)


class NotConnectedError(TemporaryError):
    """Nobody answers there."""


class NoTlsError(RegistryError):
    """Somebody answers, but does not speak TLS."""


@contextmanager
def failing(host: str, stop: threading.Event, silence: float) -> Iterator[None]:
    """Failures of urllib3 as ours, which name ``host``; StoppedError where ``stop`` is the cause.

    Who says nothing for ``silence`` seconds fails.

    Raises:
        NotConnectedError, NoTlsError, TemporaryError, RegistryError: as they are.
    """
    try:
        yield
    except (exceptions.HTTPError, ssl.SSLError, ConnectionError, TimeoutError) as error:
        if stop.is_set():
            raise StoppedError from error
        raise _in_words(error, host, silence) from error


def _in_words(error: Exception, host: str, silence: float) -> RegistryError:
    # What urllib3 says has addresses in it, which may be secret.
    if isinstance(error, exceptions.ProxyError):
        inner = error.original_error
        return NotConnectedError(f"{host}: the proxy cannot be used: {_reason(inner)}")
    system = _find(error, OSError)
    if hasattr(system, "socket_err"):
        cause: Any = system  # PySocks has one within another
        while getattr(cause, "socket_err", None):
            cause = cause.socket_err
        reason = _words(getattr(cause, "msg", "")) or _reason(cause)
        return NotConnectedError(f"{host}: the proxy cannot be used: {reason}")
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
    if isinstance(error, exceptions.DecodeError):
        return RegistryError(f"{host}: its answer is not compressed as it says")
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return TemporaryError(f"{host}: nothing came for {silence:.0f} seconds")
    if system is not None or _find(error, IncompleteRead):
        return TemporaryError(f"{host}: the connection broke off: {_reason(error)}")
    if isinstance(error, exceptions.LocationValueError):
        return RegistryError(f"{host}: there can be no such host")
    return RegistryError(f"{host}: its answer is not HTTP")


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
    if _find(error, RemoteDisconnected):
        return "there was no answer"
    if _find(error, IncompleteRead):
        return "the answer ended too early"
    return "no reason is known"


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
