"""What a server answers: redirects followed, refusals in words, bodies within limits."""

from __future__ import annotations

import json
import zlib
from http import HTTPStatus

from reflayer.errors import RegistryError, printable
from reflayer.images.registry.retry import TemporaryError, seconds_to_wait
from reflayer.images.registry.transport import address_in, is_of_api, origin_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import urllib3

    from reflayer.images.registry.transport import Origin, Transport

    Body = Callable[[], bytes | Iterable[bytes]]

_MOST_REDIRECTS = 8
REDIRECTS = (301, 302, 303, 307, 308)
_SAME_METHOD = (307, 308)
_TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504, *range(520, 531)))
"""From 520 on they are Cloudflare's: it has no good answer from the registry behind it."""
_LARGEST_ERROR = 64 << 10  # bytes
_PIECE = 64 << 10  # bytes; some pieces are made of many
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_LONGEST_MESSAGE = 300  # characters


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

    Args:
        transport: sends it.
        method, url, headers: of the request, without ``Authorization``.
        authorization: goes to ``trusted`` and nowhere else; where a redirect leads out of the API,
            only if it is refused without: a signature in the address may be all that it takes.
        trusted: what it is for.
        body: makes it; once for each time that it is sent.

    Raises:
        RegistryError: the redirects are too many, or lead away from TLS; or there is no answer.
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


def refuse_status(response: urllib3.HTTPResponse, host: str, what: str) -> None:
    """Raise an error that says ``what`` is not possible, unless ``host`` answers with success.

    Raises:
        TemporaryError: it may be one later.
        RegistryError: it will not.
    """
    if 200 <= response.status < 300:
        return
    reason = f"{host}: {what}: {_said(response)}"
    if response.status in _TEMPORARY:
        raise TemporaryError(reason, seconds_to_wait(response.headers.get("Retry-After")))
    raise RegistryError(reason)


def read_limited(response: urllib3.HTTPResponse, most: int, host: str) -> bytes:
    """All of a JSON document.

    Raises:
        RegistryError: it has more than ``most`` bytes, or is compressed and damaged.
    """
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


def _said(response: urllib3.HTTPResponse) -> str:
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
