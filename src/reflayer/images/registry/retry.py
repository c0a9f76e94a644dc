"""What fails on the way to a registry: in words, and what of it is tried again, and when."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead, RemoteDisconnected

from urllib3 import exceptions

from reflayer.errors import RegistryError, printable
from reflayer.images.content.transfer import StoppedError
from reflayer.images.registry.tls import is_no_tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    Result = TypeVar("Result")
    Kind = TypeVar("Kind", bound=BaseException)

_ATTEMPTS = 5
_FIRST = 0.5  # seconds; each wait is twice the one before
_LONGEST = 300.0  # seconds that a registry may ask for
_SHORT = 1.5  # seconds: of a wait that is no longer nobody is told
_WORTH = 1 << 20  # bytes: after so much progress failures count from zero again


class TemporaryError(RegistryError):
    """What may be gone at the next try; ``after`` so many seconds if the registry said that."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class NotConnectedError(TemporaryError):
    """No answer at an address."""


class NoTlsError(RegistryError):
    """An answer, but none of TLS."""


class Waits:
    """The waits of all that is asked of a registry, side by side.

    Attributes:
        stop: is set when all are to give up.
    """

    def __init__(self, stop: threading.Event, warn: Callable[[str], None] | None = None) -> None:
        """``warn`` is told of a wait in a line, unless it has just been told of a longer one."""
        self.stop = stop
        self._warn = warn
        self._telling = threading.Lock()
        self._told_until = 0.0

    def wait(self, reason: object, delay: float) -> None:
        """Wait for so many seconds.

        Raises:
            StoppedError: all are to give up.
        """
        if self._warn is not None and delay > _SHORT:
            until = time.monotonic() + delay
            with self._telling:
                is_news = until > self._told_until
                self._told_until = max(until, self._told_until)
            if is_news:
                self._warn(f"{reason}: once more in {delay:.0f} seconds")
        if self.stop.wait(delay):
            raise StoppedError


class Patience:
    """The tries of one thing."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._failures = 0
        self._bytes = 0

    def progressed(self, count: int) -> None:
        self._bytes += count
        if self._bytes >= _WORTH:
            self._failures = 0

    def wait(self, error: TemporaryError) -> None:
        """Wait before the next try; raise it where that was the last, or the wait is too long."""
        self._failures += 1
        self._bytes = 0
        if self._failures >= _ATTEMPTS:
            raise error
        delay = error.after
        if delay is None:
            delay = _FIRST * 2 ** (self._failures - 1) * random.uniform(0.75, 1.25)
        if delay > _LONGEST:
            raise TemporaryError(f"{error}: it asks to wait {delay:.0f} seconds") from error
        self._waits.wait(error, delay)


def retry(waits: Waits, action: Callable[[], Result]) -> Result:
    """Do ``action`` until it does not fail, or fails for good."""
    patience = Patience(waits)
    while True:
        try:
            return action()
        except TemporaryError as error:
            patience.wait(error)


def seconds_to_wait(text: str | None) -> float | None:
    """What ``Retry-After`` says (RFC 9110, 10.2.3): seconds or a date; None where it is neither.

    ``urllib3.Retry`` knows whole seconds only; and nothing can wake it.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds)


@contextmanager
def registry_errors(host: str, stop: threading.Event, silence: float) -> Iterator[None]:
    """Turn failures of urllib3 into ours, which name ``host``, or into StoppedError after ``stop``.

    ``silence`` is how many seconds are the most between two pieces of an answer.
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
    if isinstance(error, exceptions.NewConnectionError) and _find(error, socket.gaierror):
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


def _find(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """The failure of this kind that ``error`` is, or was caused by."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, kind):
            return error
        inner = [one for one in error.args if isinstance(one, BaseException)]
        error = inner[0] if inner else error.__cause__ or error.__context__
        seen += 1
    return None
