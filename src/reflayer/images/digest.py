"""Digests: what they look like, and the hashes behind them (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import hashlib
import re

from reflayer.errors import ImageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash as Hash

ALGORITHMS = ("sha256", "sha512")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 or sha512 digest."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(digest: str) -> tuple[str, str]:
    """Algorithm and hexadecimal digits of ``digest``; both are safe as names of files.

    Raises:
        ImageError: it is not a sha256 or sha512 digest.
    """
    if not is_digest(digest):
        raise ImageError(f"{printable(digest[:200])!r} is not a sha256 or sha512 digest")
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def hash_like(digest: str | None) -> Hash:
    """A hash of the algorithm of ``digest``, sha256 without one.

    Raises:
        ImageError: it is not a digest.
    """
    return hashlib.new(check_digest(digest)[0] if digest else "sha256")


def digest_text(hashing: Hash) -> str:
    """The digest that ``hashing`` came to."""
    return f"{hashing.name}:{hashing.hexdigest()}"


def digest_bytes(data: bytes) -> str:
    """The sha256 digest of ``data``."""
    return digest_text(hashlib.sha256(data))


def check_digest_is(digest: str, wanted: str) -> None:
    """Raise an ImageError where a blob's digest is not the one that it should be."""
    if digest != wanted:
        raise ImageError(f"the blob {wanted} has another content, with the digest {digest}")


def check_size(size: int, wanted: int, digest: str) -> None:
    """Raise an ImageError where a blob's size is not the one that it should be."""
    if size != wanted:
        more = "more" if size > wanted else f"{size}"
        raise ImageError(f"the blob {digest} has {more} bytes, but should have {wanted}")


class Unhashed:
    """Takes the place of a hash where nobody asks for the digest."""

    name = ""

    def update(self, data: object, /) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """Nothing."""
        return ""
