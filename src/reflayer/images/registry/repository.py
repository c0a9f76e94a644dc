"""One repository of a registry: how it speaks, and what is asked of it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial

from reflayer.errors import RegistryError
from reflayer.images.registry.credentials import find_credentials
from reflayer.images.registry.retry import (
    NotConnectedError,
    NoTlsError,
    TemporaryError,
    Waits,
    retry,
)
from reflayer.images.registry.tls import speaks_otherwise
from reflayer.images.registry.token import Authorizer
from reflayer.images.registry.transport import (
    REDIRECTS,
    Origin,
    Transport,
    follow,
    is_loopback,
    origin_of,
    refuse_status,
    said,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import urllib3

    from reflayer.images.model.reference import Reference
    from reflayer.images.registry.credentials import Access, Credentials
    from reflayer.images.registry.transport import Body

_HOSTS = {"docker.io": "registry-1.docker.io"}


class Repository:
    """A repository that is spoken to, by several threads at once.

    Attributes:
        name: the registry, for messages.
        path: the repository.
        stop: is set when all threads are to give up.
        waits: for what is tried again.
        takes_chunks: whether blobs may be sent in chunks, as far as is known.
    """

    def __init__(
        self,
        reference: Reference,
        access: Access,
        actions: str,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Find out how the registry speaks; ``actions`` are ``pull`` or ``pull,push``.

        ``warn`` is told in a line of each wait that is not short, by whichever thread waits.
        """
        self.name = reference.domain
        self.path = reference.path
        self.stop = threading.Event()
        self.waits = Waits(self.stop, warn)
        self.takes_chunks = True
        self._access = access
        self._scope = f"repository:{self.path}:{actions}"
        self._transport = Transport(access, self.stop)
        self._origin, challenges = self._connect(_HOSTS.get(self.name, self.name))
        is_secure = self._origin.scheme == "https"
        self._auth = Authorizer(self.name, self._transport, self._find, is_secure)
        self._auth.learn(challenges, (), None)

    def url(self, rest: str) -> str:
        """The address of something of the repository, ``blobs/sha256:...``."""
        return f"{self._origin.scheme}://{self._origin.name}/v2/{self.path}/{rest}"

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        also: tuple[str, ...] = (),
        accept: tuple[int, ...] = (),
        missing: str = "",
    ) -> Iterator[urllib3.HTTPResponse]:
        """Ask once; the block reads the answer, which is a success or of a status in ``accept``.

        Args:
            method, url, headers: of the request.
            what: is not possible if it fails, in words.
            body: makes what is sent; called anew for each time.
            also: scopes that are needed beside that of the repository.
            accept: statuses that are no failure.
            missing: what is to be said in place of ``what`` where it is not there.

        Raises:
            TemporaryError: it may be worth another try, unlike any other RegistryError.
        """
        scopes = (self._scope, *also)
        for attempt in (1, 2):
            secret = self._auth.header(scopes)
            response, origin = follow(
                self._transport, method, url, headers or {}, secret, self._origin, body
            )
            # No other host may say where credentials are to be shown.
            is_refused = response.status == 401 and origin == self._origin
            if not is_refused or attempt == 2:
                break
            challenges = response.headers.getlist("WWW-Authenticate")
            if not self._auth.learn(challenges, scopes, secret):
                break
            self._transport.finish(response)
        host = self.name if origin == self._origin else origin.name
        with self._transport.answering(response, host):
            if is_refused and 401 not in accept:
                raise self._auth.refused(f"{self.path}: not there, or it ")
            if response.status == 403 and origin == self._origin and 403 not in accept:
                raise self._auth.denied(f"{host}: {what}: {said(response)}")
            if response.status not in accept:
                refuse_status(response, host, what, missing)
            yield response

    def interrupt(self) -> None:
        self._transport.interrupt()

    def close(self) -> None:
        self._transport.close()

    def _find(self) -> Credentials | None:
        if self._access.credentials is not None:
            return self._access.credentials
        return find_credentials(self.name, self.path, self._access.auth_file)

    def _connect(self, host: str) -> tuple[Origin, list[str]]:
        """Where the registry is, by TLS or plain HTTP, and what it asks for (``GET /v2/``)."""
        origin = origin_of(f"https://{host}")
        is_near = is_loopback(origin.host)
        plain = is_near if self._access.tls_verify is None else not self._access.tls_verify
        try:
            if plain and is_near and speaks_otherwise(origin.host, origin.port):
                raise NoTlsError(f"{self.name}: does not speak TLS")
            return retry(self.waits, partial(self._ping, f"https://{host}/v2/", plain))
        except (_UnreachableError, NoTlsError) as error:
            if not plain:
                raise
            try:
                return retry(self.waits, partial(self._ping, f"http://{host}/v2/", False))
            except _UnreachableError:
                raise error from None

    def _ping(self, url: str, is_trial: bool) -> tuple[Origin, list[str]]:
        try:
            response = self._transport.send("GET", url, {})
        except TemporaryError as error:
            # A name is mistyped more often than a host is away.
            if is_trial or isinstance(error, NotConnectedError):
                raise _UnreachableError(str(error)) from error
            raise
        with self._transport.answering(response, self.name):
            # A redirect from here says nothing of the repository, which is asked for itself.
            if response.status not in (*REDIRECTS, 401, 403, 404):
                refuse_status(response, self.name, "does not answer as a registry")
            return origin_of(url), response.headers.getlist("WWW-Authenticate")


class _UnreachableError(RegistryError):
    """No answer at the first try."""
