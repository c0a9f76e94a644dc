"""The ``Authorization`` for a registry: none, basic, or a token for what is to be done.

Distribution's "Token Authentication" and "OAuth2 Token Authentication" specifications; RFC 9110,
11.6.1 for ``WWW-Authenticate``.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from functools import cached_property
from urllib.parse import urlencode

from reflayer.errors import DeniedError, ReflayerError, RegistryError
from reflayer.images.model.document import Document
from reflayer.images.registry.transport import follow, origin_of, read_limited, refuse_status
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import urllib3

    from reflayer.images.registry.credentials import Credentials
    from reflayer.images.registry.transport import Transport

_CLIENT = "reflayer"
_LARGEST = 1 << 20  # bytes of a token server's answer
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LIFETIME = 60  # seconds, where the server does not say (the specification's "expires_in")
_LONGEST = 24 * 3600  # seconds that a token is believed to last
_MARGIN = 5  # seconds before its end at which a token is replaced
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?=[\s,]|$)(?!\s*=)")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))')
_LONGEST_HEADER = 16 << 10  # characters


@record
class Challenge:
    """One of the schemes that a registry accepts; names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@record
class _Token:
    header: str
    until: float


class Authorizer:
    """What one registry asks for, and the answers to that; used by several threads."""

    def __init__(
        self, name: str, transport: Transport, find: Callable[[], Credentials | None], secure: bool
    ) -> None:
        """Nothing is asked for yet.

        ``find`` is called once, when credentials are asked for. A registry that is ``secure``
        speaks TLS, so secrets go by nothing less.
        """
        self._name = name
        self._transport = transport
        self._find = find
        self._secure = secure
        self._challenge: Challenge | None = None
        self._why_none = "docker login or podman login keeps them, or give --creds"
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._refusals: dict[tuple[str, ...], DeniedError] = {}
        self._more: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.RLock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The header's value for requests that need ``scopes``; None to send them without.

        A scope is such as ``repository:library/alpine:pull``.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(scopes)
            if token is None or token.until <= time.monotonic():
                token = self._token_for(self._challenge, scopes)
                if token is None:
                    return None
                self._tokens[scopes] = token
            return token.header

    def learn(self, headers: Sequence[str], scopes: tuple[str, ...], sent: str | None) -> bool:
        """Take in the challenges of a refusal; tell whether it is worth trying again.

        ``headers`` are all of ``WWW-Authenticate``; ``scopes`` those of the request, none of one
        that was not for the repository; ``sent`` is the ``Authorization`` that it had.
        """
        known = [one for one in parse_challenges(headers) if one.scheme in ("basic", "bearer")]
        if not known:
            return False
        with self._lock:
            self._challenge = max(known, key=lambda one: one.scheme)  # bearer rather than basic
            named = self._challenge.parameters.get("scope", "").split()
            self._more[scopes] = tuple(one for one in named if one not in scopes)
            old = self._tokens.get(scopes)
            if old is not None and old.header == sent:
                del self._tokens[scopes]
            return self._challenge.scheme == "bearer" or self._credentials is not None

    def denied(self, reason: str) -> DeniedError:
        """A refusal (403) for ``reason``, and what may be done about it."""
        with self._lock:
            known = None if self._challenge is None else self._credentials
        if known is None:
            return DeniedError(f"{reason}: not there, or not for everybody: {self._why_none}")
        return DeniedError(f"{reason}: not there, or not for the credentials {known.origin}")

    def refused(self, what: str = "") -> DeniedError:
        """Why ``what`` is not to be had: for want of credentials, or in spite of them."""
        with self._lock:
            known = self._credentials
        if known is None:
            return DeniedError(f"{self._name}: {what}asks for credentials: {self._why_none}")
        return DeniedError(f"{self._name}: {what}refuses the credentials {known.origin}")

    @cached_property
    def _credentials(self) -> Credentials | None:
        try:
            return self._find()
        except ReflayerError as error:  # matters only where credentials are asked for
            self._why_none = str(error)
            return None

    def _basic(self) -> str | None:
        known = self._credentials
        if known is None:
            return None
        if known.identity_token and not known.user:
            those = f"the credentials {known.origin} are an identity token"
            raise RegistryError(f"{self._name}: asks for a password, but {those}")
        pair = f"{known.user}:{known.password}".encode(errors="surrogateescape")
        return "Basic " + b64encode(pair).decode()

    def _token_for(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token | None:
        """A token for ``scopes``, and for what else the registry has named.

        A gateway may have a name of its own for a repository, which it tells in the challenge to a
        request for something of it. So where there was none yet, that request goes without a token.
        """
        more = self._more.get(scopes, ())
        refusal = self._refusals.get(scopes)
        if refusal is None:
            try:
                return self._fetch(challenge, (*scopes, *more))
            except DeniedError as error:
                refusal = self._refusals[scopes] = error
        if more:
            return self._fetch(challenge, more)
        if scopes in self._more:
            raise refusal
        return None

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        server = origin_of(realm, self._name)
        if self._secure and server.scheme != "https":
            raise RegistryError(f"{self._name}: wants tokens to be asked for by plain HTTP")
        service = challenge.parameters.get("service", "")
        known = self._credentials
        fields = [("service", service)] if service else []

        def post(grant: str, **secrets: str) -> urllib3.HTTPResponse:
            form = {"grant_type": grant, "client_id": _CLIENT, "scope": " ".join(scopes), **secrets}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = urlencode([*fields, *form.items()], errors="surrogateescape").encode()
            return self._transport.send("POST", realm, headers, body)

        if known is not None and known.identity_token:
            response = post("refresh_token", refresh_token=known.identity_token)
        else:
            mark = "&" if "?" in realm else "?"
            url = realm + mark + urlencode([*fields, *(("scope", scope) for scope in scopes)])
            response, _ = follow(self._transport, "GET", url, {}, self._basic(), server)
            if known is not None and response.status in (404, 405):  # it knows OAuth 2 alone
                self._transport.finish(response)
                response = post("password", username=known.user, password=known.password)
        with self._transport.answering(response, server.name):
            if response.status in (400, 401, 403):
                raise self.refused()
            refuse_status(response, server.name, "no token could be had")
            data = read_limited(response, _LARGEST, server.name)
        return _token(data, server.name)


def _token(data: bytes, host: str) -> _Token:
    what = f"{host}: its answer to who asks for a token"
    answer = Document.parse(data, what)
    text = answer.string("token") or answer.string("access_token")
    if not _TOKEN.fullmatch(text):
        raise RegistryError(f"{what} has no token in it")
    seconds = answer.fields.get("expires_in")
    lifetime = seconds if isinstance(seconds, int) and seconds > _MARGIN else _LIFETIME
    return _Token(f"Bearer {text}", time.monotonic() + min(lifetime, _LONGEST) - _MARGIN)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of the headers, in order; what is malformed ends a header."""
    found: list[Challenge] = []
    for header in headers:
        place = 0
        while match := _SCHEME.match(header, place, _LONGEST_HEADER):
            place = match.end()
            parameters: dict[str, str] = {}
            while inner := _PARAMETER.match(header, place, _LONGEST_HEADER):
                place = inner.end()
                quoted = re.sub(r"\\(.)", r"\1", inner[2] or "")
                parameters.setdefault(inner[1].lower(), inner[3] or quoted)
            found.append(Challenge(match[1].lower(), parameters))
    return found
