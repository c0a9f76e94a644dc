"""An image out of a registry: its layers come side by side, and are read while they come."""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial

from reflayer.errors import ImageError, RegistryError, brief, failing, printable
from reflayer.images.content.fetch import nearest
from reflayer.images.content.partial_download import (
    commit_ingest,
    ingest_path,
    open_ingest,
    writing,
)
from reflayer.images.content.resolve import find_image
from reflayer.images.model.descriptor import (
    INDEXES,
    MANIFESTS,
    SAYS_NOTHING,
    SCHEMA_1,
    Descriptor,
    check_digest_is,
    check_size,
    digest_text,
    hash_like,
    is_digest,
    media_type,
)
from reflayer.images.model.document import Document
from reflayer.images.model.image import LARGEST_CONFIG
from reflayer.images.model.manifest import LARGEST_MANIFEST, Index, parse_manifest
from reflayer.images.registry.answers import read_limited
from reflayer.images.registry.download import download
from reflayer.images.registry.repository import Repository
from reflayer.images.registry.retry import StoppedError, retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

    from reflayer.images.content.blob_store import Content
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry.credentials import Access
    from reflayer.progress import Progress

_HANDS = 4  # layers at once
_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))
_DIGEST_HEADER = "Docker-Content-Digest"
_MOMENT = 0.1  # seconds between two looks at what another process writes


@contextmanager
def fetching(
    reference: Reference,
    access: Access,
    content: Content,
    platform: Platform | None,
    progress: Progress | None,
) -> Iterator[Fetching]:
    """Find the image, and fetch what ``content`` lacks of it while the block runs.

    Whatever way the block ends, nothing goes on behind. What has come then stays for the next try,
    and only ``Fetching.finish`` makes blobs of it.

    Args:
        reference: the image.
        access: how its registry is to be spoken to.
        content: where it goes.
        platform: what it has to run on; None for this machine, or for whatever the only one is.
        progress: is told of stage ``fetch``, in bytes, by one thread at a time.

    Raises:
        ImageError: there is no such image, or it cannot be had, or is not right.
        OperationError: it could not be written.
    """
    repo = Repository(reference, access, "pull")
    try:
        documents = Documents(repo)
        top = documents.top(reference)
        image = find_image(top, platform, nearest(content, documents.open), str(reference))
        running = Fetching(image, documents, repo, content, progress)
        try:
            running.begin()
            yield running
        finally:
            running.end()
    finally:
        repo.close()


class Fetching:
    """An image whose layers are on their way.

    Attributes:
        image: it.
    """

    def __init__(
        self,
        image: Image,
        documents: Documents,
        repo: Repository,
        content: Content,
        progress: Progress | None,
    ) -> None:
        """Nothing is fetched yet."""
        self.image = image
        self._documents = documents
        self._repo = repo
        self._content = content
        self._progress = progress
        self._layers: dict[str, _Layer] = {}
        self._waiting: deque[_Layer] = deque()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._failure: BaseException | None = None
        self._size = 0

    def begin(self) -> None:
        """Start to fetch.

        Raises:
            ImageError: a blob that is there has another size than it should have.
            OperationError: one cannot be written.
        """
        for blob in self.image.layers:
            if self._content.has(blob.digest):
                check_size(self._content.size(blob.digest), blob.size, blob.digest)
            elif blob.digest not in self._layers:
                layer = _Layer(blob, open_ingest(self._content, blob.digest))
                self._layers[blob.digest] = layer
                self._waiting.append(layer)
        self._size = sum(layer.blob.size for layer in self._layers.values())
        for number in range(min(_HANDS, len(self._waiting))):
            thread = threading.Thread(target=self._work, name=f"reflayer-fetch-{number}")
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Give up what has not come, and wait until everybody has."""
        self._repo.interrupt()
        for thread in self._threads:
            thread.join()
        for layer in self._layers.values():
            os.close(layer.fd)

    def open(self, digest: str) -> BinaryIO:
        """A layer to be read; where its bytes have not come yet a read waits.

        Reading the end of one that comes raises if it is not what it should be, which is known only
        then; one that was there was checked when it came.
        """
        layer = self._layers.get(digest)
        if layer is None:
            return self._content.open(digest)
        layer.opened = True
        return _Coming(layer, self._wait)  # type: ignore[return-value]

    def check(self) -> None:
        """Wait until the layers that were opened are complete, and so checked.

        For whoever finds one damaged: a registry that sent something else is the better reason.

        Raises:
            ImageError, OperationError: one is not what it should be, or cannot be had.
        """
        for layer in self._layers.values():
            if layer.opened:
                self._wait(partial(getattr, layer, "done"))

    def finish(self) -> None:
        """Wait until all has come, and make blobs of it: the manifest last.

        Raises:
            ImageError: something cannot be had, or is not right.
            OperationError: it could not be written.
        """
        for layer in self._layers.values():
            self._wait(partial(getattr, layer, "done"))
        for digest in self._layers:
            commit_ingest(self._content, digest)
        self._content.sync()
        for one in (self.image.config, self.image.manifest):
            if not self._content.has(one.digest):
                with self._documents.open(one.digest) as document:
                    self._content.add(
                        document, digest=one.digest, size=one.size, media_type=one.media_type
                    )
        self._content.sync()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``; raise what made a thread fail instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or ready())
            if self._failure is not None:
                raise self._failure

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._waiting or self._repo.stop.is_set():
                        return
                    layer = self._waiting.popleft()
                self._fetch(layer)
        except StoppedError:
            pass  # whoever asked for that knows why
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
            self._repo.interrupt()

    def _fetch(self, layer: _Layer) -> None:
        digest = layer.blob.digest
        path = ingest_path(self._content, digest)

        def readable(count: int) -> None:
            with self._changed:
                layer.readable = count
                self._changed.notify_all()

        def told(count: int) -> None:
            with self._telling:
                layer.there = count
                if self._progress is not None:
                    done = sum(one.there for one in self._layers.values())
                    self._progress("fetch", done, self._size)

        with failing(self._content.path(digest), "write"):
            while True:
                with writing(layer.fd, path, self._pause) as is_there:
                    if is_there:
                        download(self._repo, layer.blob, layer.fd, told, readable)
                        break
                if self._content.has(digest):  # another process was faster
                    layer.become(os.open(self._content.path(digest), os.O_RDONLY | os.O_CLOEXEC))
                    readable(layer.blob.size)
                    told(layer.blob.size)
                    break
                layer.become(open_ingest(self._content, digest))
        with self._changed:
            layer.done = True
            self._changed.notify_all()

    def _pause(self) -> None:
        if self._repo.stop.wait(_MOMENT):
            raise StoppedError


class _Layer:
    """A layer that is coming.

    Attributes:
        blob: what it is to be.
        fd: the file that it comes into.
        there: bytes that have come.
        readable: bytes that may be read.
        opened: whether somebody reads it.
        done: whether it is complete and checked.
    """

    def __init__(self, blob: Descriptor, fd: int) -> None:
        self.blob = blob
        self.fd = fd
        self.there = 0
        self.readable = 0
        self.opened = False
        self.done = False

    def become(self, fd: int) -> None:
        """Be another file, which ``fd`` is; whoever has the descriptor reads that one then."""
        try:
            os.dup2(fd, self.fd, inheritable=False)
        finally:
            os.close(fd)


class _Coming(io.RawIOBase):
    """A layer's bytes, as they come."""

    def __init__(self, layer: _Layer, wait: Callable[[Callable[[], bool]], None]) -> None:
        self._layer = layer
        self._wait = wait
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read what has come, and wait where there is none; 0 at the end.

        Raises:
            ImageError, OperationError: it will not come, or was found to be something else.
        """
        layer = self._layer
        if self._position == layer.blob.size:
            self._wait(partial(getattr, layer, "done"))
            return 0
        self._wait(lambda: layer.readable > self._position)
        view = memoryview(buffer)[: layer.readable - self._position]
        count = os.preadv(layer.fd, [view], self._position)
        if view and not count:  # emptied meanwhile, as it turned out to be something else
            self._wait(partial(getattr, layer, "done"))
            count = os.preadv(layer.fd, [view], self._position)
        self._position += count
        return count


class Documents:
    """The small blobs of a repository, each fetched once.

    Attributes:
        fetched: what has been, by digest.
    """

    def __init__(self, repo: Repository) -> None:
        """Nothing is fetched yet."""
        self.fetched: dict[str, bytes] = {}
        self._repo = repo
        self._manifests: set[str] = set()

    def top(self, reference: Reference) -> Descriptor:
        """Fetch the manifest or index that ``reference`` names.

        Raises:
            RegistryError: there is none, or it is not what it should be.
        """
        name = reference.digest or reference.tag
        data, claimed, digest = self._get(f"manifests/{name}", LARGEST_MANIFEST, _ACCEPT)
        what = f"{self._repo.name}: {self._repo.path}:{name}"
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
        url = self._repo.url(rest)
        what = f"{self._repo.path} has no {_in_words(rest)}"

        def get() -> tuple[bytes, str, str]:
            with self._repo.request("GET", url, what, headers={"Accept": accept}) as response:
                data = read_limited(response, most, self._repo.name)
                claimed = media_type(response.headers.get("Content-Type", ""))
                digest = response.headers.get(_DIGEST_HEADER, "")
                return data, claimed, digest if is_digest(digest) else ""

        return retry(self._repo.stop, get)


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
