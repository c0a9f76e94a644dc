"""An image out of a registry: its layers come side by side, and are read while they come."""

from __future__ import annotations

import io
import os
from contextlib import closing, suppress

from reflayer.errors import (
    ImageError,
    MissingError,
    RegistryError,
    brief,
    failing,
    listed,
    printable,
)
from reflayer.images.content import partial_download
from reflayer.images.content.coming import fetch_layers
from reflayer.images.content.resolve import find_image
from reflayer.images.content.source import Source
from reflayer.images.content.transfer import StoppedError, Transfer, fetch_image, nearest
from reflayer.images.model.descriptor import (
    INDEXES,
    MANIFESTS,
    SAYS_NOTHING,
    SCHEMA_1,
    Descriptor,
    check_digest_is,
    digest_bytes,
    is_digest,
    media_type,
)
from reflayer.images.model.document import Document
from reflayer.images.model.image import LARGEST_CONFIG, LARGEST_MANIFEST, Index, parse_manifest
from reflayer.images.registry.download import download
from reflayer.images.registry.repository import Repository
from reflayer.images.registry.retry import retry
from reflayer.images.registry.transport import read_limited
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.coming import ComingBlob
    from reflayer.images.content.source import Fetched, Unpack
    from reflayer.images.content.transfer import Told
    from reflayer.images.model.platform import Platform
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry.credentials import Access
    from reflayer.progress import Progress

_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))
_TAGS = 1000  # that are asked for, to tell of those that are there
_MOMENT = 0.1  # seconds between two looks at what another process writes


@record
class RegistrySource(Source):
    """An image in a registry.

    Attributes:
        reference: its name.
        access: how the registry is to be spoken to.
        warn: is told in a line where it has to be waited for.
    """

    reference: Reference
    access: Access
    warn: Callable[[str], None] | None = None

    @property
    def name(self) -> str:
        return str(self.reference)

    def fetch(
        self,
        content: BlobStore,
        platform: Platform | None,
        progress: Progress | None,
        unpack: Unpack | None = None,
    ) -> Fetched:
        """Fetch what ``content`` lacks of the image; what has come of it stays when that fails."""
        with closing(Repository(self.reference, self.access, "pull", self.warn)) as repo:
            documents = _Documents(repo)
            top = documents.top(self.reference)
            open_blob = nearest(content, documents.open)
            image = find_image(top, platform, open_blob, self.name)

            def fetch(layer: ComingBlob, transfer: Transfer[Descriptor], told: Told) -> None:
                _fetch_layer(layer, repo, content, transfer, told)

            came = fetch_layers(
                image, image.layers, content, fetch, progress, unpack, repo.interrupt
            )
            for digest in came:
                partial_download.commit_partial(content, digest)
            fetch_image(image, documents.open, content, None)  # the small rest, its manifest last
            return image, (self.name,)


def _fetch_layer(
    layer: ComingBlob,
    repo: Repository,
    content: BlobStore,
    transfer: Transfer[Descriptor],
    told: Told,
) -> None:
    """Have a layer complete in its file, by this process or by another one that is at it."""
    digest = layer.blob.digest
    path = partial_download.partial_path(content, digest)

    def readable(count: int) -> None:
        with transfer.changing():
            layer.readable = count

    def pause() -> None:
        if repo.stop.wait(_MOMENT):
            raise StoppedError

    with failing(content.path(digest), "write"):
        while True:
            layer.become(partial_download.open_partial(content, digest))
            with partial_download.writing(layer.fd, path, pause) as is_there:
                if is_there:
                    download(repo, layer.blob, layer.fd, told, readable)
                    break
            if content.has(digest):  # another process was faster
                layer.become(os.open(content.path(digest), os.O_RDONLY | os.O_CLOEXEC))
                readable(layer.blob.size)
                told(layer.blob.size)
                break


class _Documents:
    """Manifests, indexes and configs of a repository, each fetched once."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._fetched: dict[str, bytes] = {}
        self._manifests: set[str] = set()

    def top(self, reference: Reference) -> Descriptor:
        """Fetch the manifest or index that ``reference`` names."""
        name = reference.digest or reference.tag
        try:
            data, claimed, digest = self._get(f"manifests/{name}", LARGEST_MANIFEST, _ACCEPT)
        except MissingError as error:
            there = "" if reference.digest else self._tags_like(reference.tag)
            raise MissingError(f"{error}{there}") from error
        said = _media_type(data, claimed, f"{self._repo.name}: {self._repo.path}:{name}")
        top = Descriptor(said, _checked(data, reference.digest or digest), len(data))
        self._keep(top, data)
        return top

    def _tags_like(self, wanted: str) -> str:
        """The tags that there are, the likest first, as a part of a message; empty if none."""
        import json
        from difflib import SequenceMatcher

        try:
            with self._repo.request("GET", self._repo.url(f"tags/list?n={_TAGS}"), "") as response:
                tags = json.loads(read_limited(response, LARGEST_CONFIG, self._repo.name))["tags"]
            known = {tag: SequenceMatcher(None, tag, wanted).ratio() for tag in tags}
        except (RegistryError, ValueError, TypeError, KeyError, RecursionError):
            return ""  # the first answer is what counts
        ordered = sorted(known, key=lambda tag: (-known[tag], tag))
        return f"; there are: {listed(ordered)}" if ordered else ""

    def open(self, digest: str) -> BinaryIO:
        """A manifest that an index lists, or a config."""
        if digest in self._manifests and digest not in self._fetched:
            data, claimed, _ = self._get(f"manifests/{digest}", LARGEST_MANIFEST, _ACCEPT)
            _checked(data, digest)
            self._keep(Descriptor(_media_type(data, claimed, digest), digest, len(data)), data)
        elif digest not in self._fetched:
            data, _, _ = self._get(f"blobs/{digest}", LARGEST_CONFIG, "*/*")
            _checked(data, digest)
            self._fetched[digest] = data
        return io.BytesIO(self._fetched[digest])

    def _keep(self, manifest: Descriptor, data: bytes) -> None:
        self._fetched[manifest.digest] = data
        with suppress(ImageError):  # ``find_image`` says what is wrong
            if isinstance(contents := parse_manifest(data, manifest), Index):
                self._manifests.update(one.digest for one in contents.manifests)

    def _get(self, rest: str, most: int, accept: str) -> tuple[bytes, str, str]:
        """The body, and the media type and the digest that the registry claims it to have."""
        url = self._repo.url(rest)
        what = f"{self._repo.path}: the {_in_words(rest)} cannot be had"
        missing = f"{self._repo.path} has no {_in_words(rest)}"
        headers = {"Accept": accept}

        def get() -> tuple[bytes, str, str]:
            with self._repo.request("GET", url, what, headers=headers, missing=missing) as response:
                data = read_limited(response, most, self._repo.name)
                claimed = media_type(response.headers.get("Content-Type", ""))
                digest = response.headers.get("Docker-Content-Digest", "")
                return data, claimed, digest if is_digest(digest) else ""

        return retry(self._repo.waits, get)


def _checked(data: bytes, wanted: str) -> str:
    """The digest, which has to be ``wanted`` unless that is empty."""
    found = digest_bytes(data, wanted)
    check_digest_is(found, wanted or found)
    return found


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
