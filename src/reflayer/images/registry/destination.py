"""An image into a registry: what is not there yet, side by side, and its manifest last.

A blob is skipped, mounted, sent at once, or in chunks that can go on (OCI distribution-spec,
"Pushing Blobs").
"""

from __future__ import annotations

import os
import re
from contextlib import closing, contextmanager
from functools import partial
from urllib.parse import urlencode

from reflayer.errors import ImageError, RegistryError
from reflayer.images.content.source import Destination
from reflayer.images.content.transfer import Transfer
from reflayer.images.registry.repository import Repository
from reflayer.images.registry.retry import Patience, TemporaryError, retry
from reflayer.images.registry.transport import address_in
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import urllib3

    from reflayer.images.content.blob_store import BlobStore
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
_NO_CHUNKS = (400, 404, 405, 411, 415, 416, 501)  # of a chunk: the blob may be taken whole still


@record
class RegistryDestination(Destination):
    """A name in a registry, for an image to go to.

    Attributes:
        reference: the name; a digest has to be the image's own.
        access: how the registry is to be spoken to.
        mount_from: another repository there that may have the blob of a digest, or None.
        warn: is told in a line where the registry has to be waited for.
    """

    reference: Reference
    access: Access
    mount_from: Callable[[str], str | None]
    warn: Callable[[str], None] | None = None

    def write(self, content: BlobStore, image: Image, progress: Progress | None) -> None:
        """Send ``image``: its blobs as they are, side by side, and its manifest last."""
        name = self.reference
        if name.digest not in ("", image.manifest.digest):
            raise RegistryError(f"{name}: the image has another digest: {image.manifest.digest}")
        with closing(Repository(name, self.access, "pull,push", self.warn)) as repo:

            def send(blob: Descriptor, told: Told) -> None:
                with content.open(blob.digest) as file:
                    _Upload(repo, blob, file.fileno(), told).run(self.mount_from(blob.digest))

            blobs = {one.digest: one for one in (*image.layers, image.config)}
            with Transfer("push", blobs.values(), send, progress, repo.interrupt).running():
                pass
            _put_manifest(image.manifest, name.tag or name.digest, repo, content)


def _put_manifest(manifest: Descriptor, name: str, repo: Repository, content: BlobStore) -> None:
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

    retry(repo.waits, put)


class _NoChunksError(Exception):
    """The registry refuses a chunk, or has not kept one."""


class _Upload:
    """A blob on its way into a repository: where it goes on, and how much of it is there."""

    def __init__(self, repo: Repository, blob: Descriptor, fd: int, progress: Told) -> None:
        self._repo = repo
        self._blob = blob
        self._fd = fd
        self._progress = progress
        self._what = f"{repo.path} does not take the blob {blob.digest}"
        self._request = partial(repo.request, what=self._what)
        self._patience = Patience(repo.waits)
        self._place = ""
        self._chunk = _CHUNK
        self._there = 0

    def run(self, source: str | None) -> None:
        """Have the blob in the repository, by a mount from ``source`` if that can be.

        A registry that refuses chunks gets it whole, and so it gets all others of this push.
        """
        while True:
            try:
                if not self._is_there() and self._begin(source):
                    self._send()
                self._progress(self._blob.size)
                return
            except _NoChunksError:
                self._repo.takes_chunks = False
            except TemporaryError as error:
                self._patience.wait(error)
                source = None  # the mount may be what overloads the registry

    def _is_there(self) -> bool:
        url = self._repo.url(f"blobs/{self._blob.digest}")
        try:
            with self._request("HEAD", url):
                return True
        except TemporaryError:
            raise
        except RegistryError:
            return False  # where HEAD is unknown or forbidden, an upload may work all the same

    def _begin(self, source: str | None) -> bool:
        """Begin an upload; False where the blob was mounted from ``source``."""
        url = self._repo.url("blobs/uploads/")
        headers = {"Content-Length": "0"}
        if source is not None:
            mount = f"{url}?{urlencode({'mount': self._blob.digest, 'from': source})}"
            also = (f"repository:{source}:pull",)
            try:
                with self._request("POST", mount, headers=headers, also=also) as response:
                    return response.status != 201 and self._begun(response, mount)
            except TemporaryError:
                raise
            except RegistryError:
                pass  # where mounts are unknown or forbidden, an upload may work all the same
        with self._request("POST", url, headers=headers) as response:
            return self._begun(response, url)

    def _begun(self, response: urllib3.HTTPResponse, url: str) -> bool:
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        self._place = self._location(response, url)
        self._chunk = max(_CHUNK, int(least) if _LENGTH.fullmatch(least) else 0)
        self._there = 0
        return True

    def _send(self) -> None:
        """Send it all to where an upload has begun; what it raises makes it begin anew."""
        size = self._blob.size
        in_chunks = size > self._chunk and self._repo.takes_chunks
        while True:
            try:
                if not in_chunks or size - self._there <= self._chunk:
                    self._put(size - self._there)
                    return
                self._patch(self._chunk)
            except TemporaryError as error:
                if not in_chunks:
                    raise
                self._patience.wait(error)
                self._ask(error)

    def _patch(self, count: int) -> None:
        start = self._there
        with self._sending("PATCH", self._place, count, _NO_CHUNKS) as response:
            self._place = self._location(response, self._place)
            kept = _kept(response)
        self._there = start + count
        # Amazon's ECR takes all chunks, but tells of none after the first. A registry that really
        # has nothing of this one refuses the next, or finds another digest in the end.
        if kept is not None and kept > start:
            self._there = min(kept, self._there)
        self._patience.progressed(self._there - start)

    def _ask(self, error: TemporaryError) -> None:
        """Find out how much is there; begin anew where the registry does not know."""
        accept = (400, 404, 405, 416)
        with self._request("GET", self._place, accept=accept) as response:
            there = _kept(response)
            if response.status != 204 or there is None:
                raise error
            if there > self._blob.size:
                raise RegistryError(f"{self._repo.name}: {self._what}: it has more than was sent")
            self._place = self._location(response, self._place)
            self._there = there

    def _put(self, count: int) -> None:
        """Send the rest, with which the upload is complete: ECR wants something in it."""
        mark = "&" if "?" in self._place else "?"
        url = self._place + mark + urlencode({"digest": self._blob.digest})
        with self._sending("PUT", url, count, _NO_CHUNKS if self._there else ()):
            pass

    @contextmanager
    def _sending(
        self, method: str, url: str, count: int, no_chunks: tuple[int, ...]
    ) -> Iterator[urllib3.HTTPResponse]:
        """Send the next ``count`` bytes; a blob that goes whole has no range."""
        start = self._there
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        if count and count < self._blob.size:
            headers["Content-Range"] = f"{start}-{start + count - 1}"
        body = (lambda: self._pieces(count)) if count else None
        with self._request(method, url, headers=headers, body=body, accept=no_chunks) as response:
            if response.status in no_chunks:
                raise _NoChunksError
            yield response

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

    def _location(self, response: urllib3.HTTPResponse, url: str) -> str:
        location = response.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._repo.name}: {self._what}: it does not say where to")
        return address_in(location, url)


def _kept(response: urllib3.HTTPResponse) -> int | None:
    """How many bytes the registry says to have of an upload; None where it does not say."""
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    if match is None:
        return None
    # An empty upload is told as 0-0, too: if there is a byte, it comes twice, which is refused.
    return int(match[1]) + 1 if match[1] != "0" else 0
