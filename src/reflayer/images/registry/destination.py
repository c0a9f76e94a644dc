"""An image into a registry: what is not there yet, side by side, and its manifest last.

A blob is skipped, mounted, sent at once, or in chunks that can go on (OCI distribution-spec,
"Pushing Blobs").
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from reflayer.errors import ImageError, RegistryError
from reflayer.images.content.fetch import Destination
from reflayer.images.content.transfer import Transfer
from reflayer.images.registry.repository import Repository
from reflayer.images.registry.retry import Patience, TemporaryError, retry
from reflayer.images.registry.transport import address_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import urllib3

    from reflayer.images.content.blob_store import Content
    from reflayer.images.content.transfer import Told
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry.credentials import Access
    from reflayer.progress import Progress

_CHUNK = 32 << 20  # bytes; a larger blob is sent in such, as far as that is wanted
_PIECE = 256 << 10  # bytes read at a time, and sent within the time that the transport gives
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")
_BINARY = "application/octet-stream"
_NO_CHUNKS = (400, 404, 405, 411, 415, 416, 501)  # of a chunk: the blob may be taken whole still


@dataclass(frozen=True, slots=True)
class RegistryDestination(Destination):
    """A name in a registry, for an image to go to.

    Attributes:
        reference: the name; a digest has to be the image's own.
        access: how the registry is to be spoken to.
        mount_from: another repository there that may have the blob of a digest, or None.
    """

    reference: Reference
    access: Access
    mount_from: Callable[[str], str | None]

    def write(self, content: Content, image: Image, progress: Progress | None) -> None:
        """Send ``image``, all of whose blobs are in ``content`` and go as they are.

        Args:
            content: has the blobs.
            image: what is sent.
            progress: is told of stage ``push``, in bytes, by one thread at a time.

        Raises:
            RegistryError: the registry cannot be reached, or does not take it.
            ImageError: a blob is missing, or has another digest.
            OperationError: a blob cannot be read.
        """
        name = self.reference
        if name.digest not in ("", image.manifest.digest):
            raise RegistryError(f"{name}: the image has another digest: {image.manifest.digest}")
        repo = Repository(name, self.access, "pull,push")

        def send(blob: Descriptor, told: Told) -> None:
            with content.open(blob.digest) as file:
                _upload(repo, blob, file.fileno(), self.mount_from(blob.digest), told)

        try:
            blobs = {one.digest: one for one in (*image.layers, image.config)}
            with Transfer("push", blobs.values(), send, progress, repo.interrupt).running():
                pass
            _put_manifest(image.manifest, name.tag or name.digest, repo, content)
        finally:
            repo.close()


def _put_manifest(manifest: Descriptor, name: str, repo: Repository, content: Content) -> None:
    with content.open(manifest.digest) as file:
        data = file.read()
    what = f"{repo.path} does not take the manifest"
    url = repo.url(f"manifests/{name}")

    def put() -> None:
        headers = {"Content-Type": manifest.media_type}
        with repo.request("PUT", url, what, headers=headers, body=lambda: data) as response:
            digest = response.headers.get("Docker-Content-Digest")
        if digest and digest != manifest.digest:
            raise RegistryError(
                f"{repo.name}: has made another manifest of {manifest.digest} than was sent"
            )

    retry(repo.stop, put)


class _NoChunksError(Exception):
    """The registry refuses a chunk, or has not kept one."""


class _Begun(NamedTuple):
    """Where an upload goes to, and how many bytes a chunk has to have at least."""

    place: str
    least: int


def _upload(
    repo: Repository, blob: Descriptor, fd: int, source: str | None, progress: Told
) -> None:
    """Have ``blob`` in the repository.

    A registry that refuses chunks gets it whole, and whatever else goes there in this run, too.

    Args:
        repo: the repository.
        blob: what is sent.
        fd: its bytes, a regular file.
        source: a repository of the same registry that may have it.
        progress: is called with the bytes that are there; may raise to give up.

    Raises:
        RegistryError: the registry does not take it.
        StoppedError: somebody asked to stop.
    """
    what = f"{repo.path} does not take the blob {blob.digest}"
    patience = Patience(repo.stop)
    while True:
        try:
            begun = None
            if not _is_there(repo, blob, what):
                begun = _begin(repo, blob, source, what)
            if begun is not None:
                _Upload(repo, blob, fd, begun, what, patience, progress).run()
            progress(blob.size)
            return
        except _NoChunksError:
            repo.takes_chunks = False
        except TemporaryError as error:
            patience.wait(error)
            source = None  # it may be that which it is not up to


def _is_there(repo: Repository, blob: Descriptor, what: str) -> bool:
    try:
        with repo.request("HEAD", repo.url(f"blobs/{blob.digest}"), what):
            return True
    except TemporaryError:
        raise
    except RegistryError:
        return False  # who answers no HEAD, or only to who may read, may take it all the same


def _begin(repo: Repository, blob: Descriptor, source: str | None, what: str) -> _Begun | None:
    """An upload; None where the blob was mounted from ``source``."""
    url = repo.url("blobs/uploads/")
    headers = {"Content-Length": "0"}
    if source is not None:
        mount = f"{url}?{urlencode({'mount': blob.digest, 'from': source})}"
        also = (f"repository:{source}:pull",)
        try:
            with repo.request("POST", mount, what, headers=headers, also=also) as response:
                return None if response.status == 201 else _begun(response, repo, mount, what)
        except TemporaryError:
            raise
        except RegistryError:
            pass  # who may not read there, or who knows no mounts, may send it all the same
    with repo.request("POST", url, what, headers=headers) as response:
        return _begun(response, repo, url, what)


class _Upload:
    """An upload that has begun: where it goes on, and how much of it is there."""

    def __init__(
        self,
        repo: Repository,
        blob: Descriptor,
        fd: int,
        begun: _Begun,
        what: str,
        patience: Patience,
        progress: Told,
    ) -> None:
        self._repo = repo
        self._blob = blob
        self._fd = fd
        self._place = begun.place
        self._chunk = max(_CHUNK, begun.least)
        self._what = what
        self._patience = patience
        self._progress = progress
        self._there = 0

    def run(self) -> None:
        """Send it all.

        Raises:
            TemporaryError: it has to begin anew.
            _NoChunksError: it has to, and not in chunks.
        """
        size = self._blob.size
        in_chunks = size > self._chunk and self._repo.takes_chunks
        while True:
            try:
                if in_chunks and size - self._there > self._chunk:
                    self._patch(self._chunk)
                else:
                    self._put(size - self._there)
                    return
            except TemporaryError as error:
                if not in_chunks:
                    raise
                self._patience.wait(error)
                self._ask(error)

    def _patch(self, count: int) -> None:
        start = self._there
        with self._repo.request(
            "PATCH",
            self._place,
            self._what,
            headers=self._headers(count),
            body=lambda: self._pieces(count),
            accept=_NO_CHUNKS,
        ) as response:
            if response.status in _NO_CHUNKS:
                raise _NoChunksError
            self._place = _place(response, self._repo, self._place, self._what)
            kept = _kept(response)
        self._there = start + count
        # Amazon's ECR takes all of them, but tells of none after the first. Who really has nothing
        # of this one refuses the next, or finds another digest in the end.
        if kept is not None and kept > start:
            self._there = min(kept, self._there)
        self._patience.progressed(self._there - start)

    def _ask(self, error: TemporaryError) -> None:
        """Find out how much is there; begin anew where the registry does not know."""
        with self._repo.request(
            "GET", self._place, self._what, accept=(400, 404, 405, 416)
        ) as response:
            there = _kept(response)
            if response.status != 204 or there is None:
                raise error
            if there > self._blob.size:
                raise RegistryError(f"{self._repo.name}: {self._what}: it has more than was sent")
            self._place = _place(response, self._repo, self._place, self._what)
            self._there = there

    def _put(self, count: int) -> None:
        """Send the rest, with which the upload is complete: ECR wants something in it."""
        mark = "&" if "?" in self._place else "?"
        url = self._place + mark + urlencode({"digest": self._blob.digest})
        body = (lambda: self._pieces(count)) if count else None
        accept = _NO_CHUNKS if self._there else ()
        with self._repo.request(
            "PUT", url, self._what, headers=self._headers(count), body=body, accept=accept
        ) as response:
            if response.status in accept:
                raise _NoChunksError

    def _headers(self, count: int) -> dict[str, str]:
        """Those of a request with the next ``count`` bytes; a blob that goes whole has no range."""
        start = self._there
        headers = {"Content-Type": _BINARY, "Content-Length": str(count)}
        if count and count < self._blob.size:
            headers["Content-Range"] = f"{start}-{start + count - 1}"
        return headers

    def _pieces(self, count: int) -> Iterator[bytes]:
        place = self._there
        end = place + count
        while place < end:
            data = os.pread(self._fd, min(_PIECE, end - place), place)
            if not data:
                raise ImageError(f"the blob {self._blob.digest} is shorter than it should be")
            yield data
            place += len(data)
            self._progress(place)


def _begun(response: urllib3.HTTPResponse, repo: Repository, url: str, what: str) -> _Begun:
    least = response.headers.get("OCI-Chunk-Min-Length", "")
    return _Begun(_place(response, repo, url, what), int(least) if _LENGTH.fullmatch(least) else 0)


def _kept(response: urllib3.HTTPResponse) -> int | None:
    """How many bytes the registry says to have of an upload; None where it does not say."""
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    if match is None:
        return None
    # An empty upload is told as 0-0, too: if there is a byte, it comes twice, which is refused.
    return int(match[1]) + 1 if match[1] != "0" else 0


def _place(response: urllib3.HTTPResponse, repo: Repository, url: str, what: str) -> str:
    location = response.headers.get("Location")
    if not location:
        raise RegistryError(f"{repo.name}: {what}: it does not say where to")
    return address_in(location, url)
