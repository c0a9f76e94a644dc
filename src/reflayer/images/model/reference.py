"""References to images in registries, read as Docker reads them.

The grammar is that of distribution's ``reference`` package.
"""

from __future__ import annotations

from reflayer.errors import ImageError, printable
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Match

_DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_DEFAULT_TAG = "latest"
_LONGEST_PATH = 255  # characters
_LARGEST_PORT = 65535
_ID_LENGTH = 64
_MOST = 128  # characters of a tag

# None is compiled before there is something to match.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::([0-9]{{1,5}}))?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_IN_TAG = "_.-"  # beside letters and digits; the last two do not begin it
_IDENTIFIER = r"[a-f0-9]{64}"


@record
class Reference:
    """An image's name in a registry.

    Attributes:
        domain: the registry's host, with its port if one was given.
        path: the repository.
        tag: or empty, which it is only beside a digest.
        digest: or empty.
    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """The whole of it: ``docker.io/library/alpine:latest``."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.domain}/{self.path}{tag}{digest}"

    def familiar(self) -> str:
        """As Docker shows it, without what is the default: ``alpine:latest``."""
        return familiar(str(self))


def familiar(name: str) -> str:
    """The whole name of an image as Docker shows it; where an image came from stays as it is."""
    path = name.removeprefix(f"{_DEFAULT_DOMAIN}/")
    if path == name:
        return name
    short = path.removeprefix(_OFFICIAL)
    return path if "/" in short else short


def parse_reference(text: str) -> Reference:
    """Read ``[DOMAIN/]PATH[:TAG][@DIGEST]``; the tag is ``latest`` where there is neither."""
    if len(text) == _ID_LENGTH and _match(_IDENTIFIER, text):
        raise _bad(text, "64 hexadecimal digits are an id, not a name")
    name, at, digest = text.partition("@")
    if at:
        from reflayer.images.model.descriptor import check_digest

        try:
            check_digest(digest)
        except ImageError:
            raise _bad(text, "what follows @ is not a sha256 or sha512 digest") from None
    domain, remainder = _split_domain(name)
    path, colon, tag = remainder.partition(":")
    if path != path.lower():
        raise _bad(text, "the repository must be in lower case")
    host = None if domain == _DEFAULT_DOMAIN else _match(_DOMAIN, domain)
    is_host = host is not None or domain == _DEFAULT_DOMAIN
    if not is_host or not (_is_plain(*path.split("/")) or _match(_PATH, path)):
        raise _bad(text, "expected [DOMAIN/]NAME[:TAG][@DIGEST]")
    if host and host[1] and int(host[1]) > _LARGEST_PORT:
        raise _bad(text, "there is no such port")
    if len(path) > _LONGEST_PATH:
        raise _bad(text, f"the repository has more than {_LONGEST_PATH} characters")
    if colon and not _is_tag(tag):
        raise _bad(text, "a tag is at most 128 of a-z, A-Z, 0-9, '_', '.' and '-'")
    return Reference(domain, path, tag if colon or at else _DEFAULT_TAG, digest)


def refuse_digest(name: Reference) -> None:
    """Raise an ImageError where a new image's name would be taken for a digest, as Docker does."""
    from reflayer.images.model.descriptor import ALGORITHMS

    if name.familiar().partition(":")[0] in ALGORITHMS:
        raise ImageError(f"{name.familiar()} would be taken for a digest: take another name")


def _is_plain(*words: str) -> bool:
    """Whether they are letters and digits, so that no grammar is needed."""
    return all(word.isalnum() and word.isascii() for word in words)


def _is_tag(text: str) -> bool:
    plain = text.translate(dict.fromkeys(map(ord, _IN_TAG), "x"))
    return _is_plain(plain) and len(text) <= _MOST and text[0] not in _IN_TAG[1:]


def _match(grammar: str, text: str) -> Match[str] | None:
    """Whether all of ``text`` is that, and its groups."""
    import re  # it takes longer than all else of a small command, which seldom needs it

    return re.fullmatch(grammar, text)


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = slash and (
        first == "localhost" or "." in first or ":" in first or first != first.lower()
    )
    domain, remainder = (first, rest) if is_domain else (_DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _bad(text: str, reason: str) -> ImageError:
    return ImageError(f"{printable(text[:300])!r} is not an image reference: {reason}")
