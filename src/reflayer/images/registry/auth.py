"""The ``Authorization`` for a registry: anonymous, basic, or a token for what is to be done.

Distribution's "Token Authentication" and "OAuth2 Token Authentication" specifications.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from reflayer.errors import RegistryError
from reflayer.images.document import Document
from reflayer.images.registry.answers import follow, read_limited, refuse_status
from reflayer.images.registry.challenge import Challenge, parse_challenges
from reflayer.images.registry.transport import origin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reflayer.images.registry.access import Credentials
    from reflayer.images.registry.transport import Transport

_CLIENT = "reflayer"
_LARGEST = 1 << 20  # bytes of a token server's answer
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LIFETIME = 60  # seconds, where the server does not say (the specification's "expires_in")
_LONGEST = 24 * 3600  # seconds that a token is believed to last
_MARGIN = 5  # seconds before its end at which a token is replaced


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    until: float


class Authorizer:
    """Knows what one registry asks for, and has it; used by several threads."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        find: Callable[[], Credentials | None],
        *,
        secure: bool,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            name: the registry, for messages.
            transport: how its token server is reached.
            find: looks for credentials; called once, when some are asked for.
            secure: whether the registry is spoken to by TLS, so that secrets go by nothing less.
        """
        self._name = name
        self._transport = transport
        self._find = find
        self._secure = secure
        self._challenge: Challenge | None = None
        self._found: list[Credentials | None] = []
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = threading.RLock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The header's value for requests that need ``scopes``; None where nothing is asked for.

        Args:
            scopes: such as ``repository:library/alpine:pull``.

        Raises:
            RegistryError: no token can be had.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(scopes)
            if token is None or token.until <= time.monotonic():
                token = self._tokens[scopes] = self._fetch(self._challenge, scopes)
            return token.header

    def learn(self, headers: Sequence[str], scopes: tuple[str, ...], sent: str | None) -> bool:
        """Take in the challenges of a refusal; tell whether it is worth trying again.

        Args:
            headers: all of ``WWW-Authenticate``.
            scopes: those of the request.
            sent: the ``Authorization`` that it had.
        """
        challenges = parse_challenges(headers)
        with self._lock:
            for scheme in ("bearer", "basic"):
                for challenge in challenges:
                    if challenge.scheme == scheme:
                        self._challenge = challenge
                        old = self._tokens.get(scopes)
                        if old is not None and old.header == sent:
                            del self._tokens[scopes]
                        return scheme == "bearer" or self.credentials is not None
            return False

    @property
    def credentials(self) -> Credentials | None:
        """Those of the user, or None."""
        with self._lock:
            if not self._found:
                self._found.append(self._find())
            return self._found[0]

    def _basic(self) -> str | None:
        known = self.credentials
        if known is None:
            return None
        if not known.user:
            raise RegistryError(
                f"{self._name}: asks for a password, but the credentials {known.origin} are an "
                "identity token"
            )
        return "Basic " + b64encode(f"{known.user}:{known.password}".encode()).decode()

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        server = origin_of(realm)
        if self._secure and server.scheme != "https":
            raise RegistryError(f"{self._name}: wants tokens to be asked for by plain HTTP")
        service = challenge.parameters.get("service", "")
        known = self.credentials
        fields = [("service", service)] if service else []
        if known is not None and known.identity_token:
            fields += [
                ("grant_type", "refresh_token"),
                ("client_id", _CLIENT),
                ("scope", " ".join(scopes)),
                ("refresh_token", known.identity_token),
            ]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._transport.send("POST", realm, headers, urlencode(fields).encode())
        else:
            fields += [("scope", scope) for scope in scopes]
            mark = "&" if "?" in realm else "?"
            url = realm + mark + urlencode(fields)
            response, _ = follow(self._transport, "GET", url, {}, self._basic(), server)
        with self._transport.answering(response, server.name):
            if response.status in (400, 401, 403):
                raise self._refused(known)
            refuse_status(response, server.name, "no token could be had")
            data = read_limited(response, _LARGEST, server.name)
        return _token(data, server.name)

    def _refused(self, known: Credentials | None) -> RegistryError:
        if known is None:
            return RegistryError(f"{self._name}: {NO_CREDENTIALS}")
        return RegistryError(f"{self._name}: the credentials {known.origin} are refused")


NO_CREDENTIALS = "asks for credentials: docker login or podman login keeps them, or give --creds"


def _token(data: bytes, host: str) -> _Token:
    what = f"{host}: its answer to who asks for a token"
    answer = Document.parse(data, what)
    text = answer.string("token") or answer.string("access_token")
    if not _TOKEN.fullmatch(text):
        raise RegistryError(f"{what} has no token in it")
    seconds = answer.fields.get("expires_in")
    lifetime = seconds if isinstance(seconds, int) and seconds > _MARGIN else _LIFETIME
    return _Token(f"Bearer {text}", time.monotonic() + min(lifetime, _LONGEST) - _MARGIN)
