"""Manifests, indexes and configs of a repository, by tag or digest, within limits."""

from __future__ import annotations

import io
from contextlib import suppress

from reflayer.errors import ImageError, RegistryError, brief, printable
from reflayer.images.descriptor import Descriptor
from reflayer.images.digest import check_digest_is, digest_text, hash_like, is_digest
from reflayer.images.document import Document
from reflayer.images.image import LARGEST_CONFIG
from reflayer.images.manifest import LARGEST_MANIFEST, Index, parse_manifest
from reflayer.images.media_types import (
    INDEXES,
    MANIFESTS,
    SAYS_NOTHING,
    SCHEMA_1,
    media_type,
)
from reflayer.images.registry.answers import read_limited
from reflayer.images.registry.retry import again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from reflayer.images.reference import Reference
    from reflayer.images.registry.session import Session

_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))
_DIGEST_HEADER = "Docker-Content-Digest"


class Documents:
    """The small blobs of a repository, each fetched once.

    Attributes:
        fetched: what has been, by digest.
    """

    def __init__(self, session: Session) -> None:
        """Nothing is fetched yet."""
        self.fetched: dict[str, bytes] = {}
        self._session = session
        self._manifests: set[str] = set()

    def top(self, reference: Reference) -> Descriptor:
        """Fetch the manifest or index that ``reference`` names.

        Raises:
            RegistryError: there is none, or it is not what it should be.
        """
        name = reference.digest or reference.tag
        data, claimed, digest = self._get(f"manifests/{name}", LARGEST_MANIFEST, _ACCEPT)
        what = f"{self._session.name}: {self._session.path}:{name}"
        said = _media_type(data, claimed, what)
        wanted = reference.digest or digest
        hashing = hash_like(wanted or None)
        hashing.update(data)
        found = digest_text(hashing)
        if wanted:
            check_digest_is(found, wanted)
        top = Descriptor(said, found, len(data))
        self._keep(top, data, is_manifest=True)
        return top

    def open(self, digest: str) -> BinaryIO:
        """A manifest that an index lists, or a config; whoever reads it checks it.

        Raises:
            RegistryError: it cannot be had.
        """
        if digest not in self.fetched:
            is_manifest = digest in self._manifests
            if is_manifest:
                data, claimed, _ = self._get(f"manifests/{digest}", LARGEST_MANIFEST, _ACCEPT)
            else:
                data, claimed, _ = self._get(f"blobs/{digest}", LARGEST_CONFIG, "*/*")
            hashing = hash_like(digest)
            hashing.update(data)
            check_digest_is(digest_text(hashing), digest)
            if is_manifest:
                claimed = _media_type(data, claimed, digest)
            self._keep(Descriptor(claimed, digest, len(data)), data, is_manifest)
        return io.BytesIO(self.fetched[digest])

    def _keep(self, descriptor: Descriptor, data: bytes, is_manifest: bool) -> None:
        self.fetched[descriptor.digest] = data
        with suppress(ImageError):  # whoever reads it says what is wrong
            if is_manifest and isinstance(contents := parse_manifest(data, descriptor), Index):
                self._manifests.update(one.digest for one in contents.manifests)

    def _get(self, rest: str, most: int, accept: str) -> tuple[bytes, str, str]:
        """The body, and the media type and the digest that the registry claims it to have."""
        url = self._session.url(rest)
        what = f"{self._session.path} has no {_in_words(rest)}"

        def get() -> tuple[bytes, str, str]:
            with self._session.request("GET", url, what, headers={"Accept": accept}) as response:
                data = read_limited(response, most, self._session.name)
                claimed = media_type(response.headers.get("Content-Type", ""))
                digest = response.headers.get(_DIGEST_HEADER, "")
                return data, claimed, digest if is_digest(digest) else ""

        return again(self._session.stop, get)


def _in_words(rest: str) -> str:
    kind, _, name = rest.partition("/")
    if kind == "manifests":
        kind = "manifest" if ":" in name else "tag"
    return f"{kind.removesuffix('s')} {printable(name)}"


def _media_type(data: bytes, claimed: str, what: str) -> str:
    """What a manifest is said to be: in the answer's header, or else in itself."""
    if claimed in MANIFESTS | INDEXES or claimed.startswith(SCHEMA_1):
        return claimed
    try:
        return Document.parse(data, what).media_type() or claimed
    except ImageError as error:
        if claimed in SAYS_NOTHING:
            raise
        reason = f"{what} is of the media type {brief(claimed)}, which is no image's manifest"
        raise RegistryError(reason) from error
