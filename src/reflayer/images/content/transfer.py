"""What brings images into the blob store, and out of it; and blobs that come or go side by side."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager
from functools import partial

from reflayer.images.content.resolve import choose_image
from reflayer.images.model.descriptor import check_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.resolve import Open
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.document import Document
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

    Fetched = tuple[Image, tuple[str, ...]]
    Told = Callable[[int], None]  # the bytes of a blob that are done
    Unpack = Callable[[Image, Open], None]

UNSETTLED = 2.0
"""Seconds in which a file can change again without its times telling."""

_WORKERS = 4


class Source(ABC):
    """An image somewhere, to be fetched."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What a store calls the image."""

    def stamp(self) -> str:
        """What is the same as long as the image is; empty where only fetching it tells."""
        return ""

    def fetch(
        self,
        content: BlobStore,
        platform: Platform | None,
        progress: Progress | None,
        unpack: Unpack | None = None,
    ) -> Fetched:
        """Bring the image into ``content``; all of its blobs are there, checked, on return.

        Args:
            content: where the blobs go. Those that are there are not read again.
            platform: what it has to run on; None for this machine, or for whatever the only one is.
            progress: is told of stage ``fetch``, in bytes, by one thread at a time.
            unpack: is called with the image and what opens its layers by their digests, perhaps
                while they come: then a read waits for bytes, and at the end of a layer that is not
                what it should be it raises.

        Returns:
            The image, and what a store calls it: first its ``name``.

        Raises:
            ImageError: there is no such image, or it is not right.
            OperationError: it could not be read or written.
        """
        image, names = self._fetch(content, platform, progress)
        if unpack is not None:
            unpack(image, content.open)
        return image, names

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``fetch``, of a source that is there at once."""
        raise NotImplementedError


class Destination(ABC):
    """A place that an image can be written to.

    Attributes:
        is_plain: whether layers are always plain there.
    """

    __slots__ = ()
    is_plain = False

    @abstractmethod
    def write(self, content: BlobStore, image: Image, progress: Progress | None) -> None:
        """Write ``image`` there, all of whose blobs are in ``content``.

        A manifest of OCI's may be added to ``content`` for that. ``progress`` is told of the bytes,
        by one thread at a time.
        """


def fetch_image(
    image: Image, open_blob: Open, content: BlobStore, progress: Progress | None
) -> None:
    """Bring ``image`` into ``content``, its manifest last; ``open_blob`` is called by threads."""
    add_blobs(content, open_blob, (image.config, *image.layers), progress)
    add_blobs(content, open_blob, (image.manifest,), None)
    content.sync()


def fetch_listed(
    index: Document,
    which: str,
    open_blob: Open,
    content: BlobStore,
    platform: Platform | None,
    progress: Progress | None,
    where: str,
) -> tuple[Image, Descriptor]:
    """Bring in the image of a layout that ``which`` names; return what is listed for it, too."""
    image, top = choose_image(index, which, platform, nearest(content, open_blob), where)
    fetch_image(image, open_blob, content, progress)
    return image, top


def nearest(content: BlobStore, open_blob: Open) -> Open:
    """Opens a blob where ``content`` has it, else by ``open_blob``."""
    return lambda digest: content.open(digest) if content.has(digest) else open_blob(digest)


def add_blobs(
    content: BlobStore, open_blob: Open, blobs: Iterable[Descriptor], progress: Progress | None
) -> None:
    """Add the blobs that ``content`` lacks, the largest first, several at once."""

    def add(one: Descriptor, told: Told) -> None:
        with open_blob(one.digest) as blob:
            content.add(blob, digest=one.digest, size=one.size, progress=told)

    largest_first = sorted(missing_blobs(content, blobs), key=lambda one: -one.size)
    with Transfer("fetch", largest_first, add, progress).running():
        pass


def missing_blobs(content: BlobStore, blobs: Iterable[Descriptor]) -> list[Descriptor]:
    missing = []
    for one in {one.digest: one for one in blobs}.values():
        if content.has(one.digest):
            check_size(content.size(one.digest), one.size, one.digest)
        else:
            missing.append(one)
    return missing


class StoppedError(Exception):
    """Another blob failed, or the caller gave up: there is no need to go on."""


class Transfer:
    """Blobs on their way, four at once."""

    # Threads: hashing and waiting let go of the interpreter's lock. The obvious ThreadPoolExecutor
    # loses one: a signal while it starts a thread keeps it from knowing of that thread, for which
    # it does not wait then. Here a thread counts itself, and none begins anything after ``_stop``.

    def __init__(
        self,
        stage: str,
        blobs: Iterable[Descriptor],
        work: Callable[[Descriptor, Told], None],
        progress: Progress | None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing goes on yet.

        Args:
            stage: what ``progress`` is told of, in bytes, by one thread at a time.
            blobs: one of a digest.
            work: gets a blob, and what to call with the number of its bytes that are done.
            progress: may raise, which is as if ``work`` did.
            interrupt: wakes the threads that wait within ``work``.
        """
        self._changed = threading.Condition()
        self._stage = stage
        self._waiting = deque(blobs)
        self._done = {one.digest: 0 for one in self._waiting}
        self._size = sum(one.size for one in self._waiting)
        self._left = len(self._waiting)
        self._work = work
        self._progress = progress
        self._interrupt = interrupt
        self._telling = threading.Lock()
        self._working = 0
        self._stopped = False
        self._failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them go on while the block runs, and wait at its end until all are done.

        Nothing goes on after it: where ``work`` or the block raises, the others end at their next
        step.
        """
        try:
            for number in range(min(_WORKERS, self._left)):
                threading.Thread(target=self._run, name=f"reflayer-{self._stage}-{number}").start()
            yield
            self.wait()
        except BaseException:
            self._stop()
            with self._changed:
                self._changed.wait_for(lambda: not self._working)
            raise

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until ``ready``, or for all blobs; raise what made one fail instead."""
        is_ready = ready or (lambda: not self._left)
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or is_ready())
            if self._failure is not None:
                raise self._failure

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The block changes what a thread in ``wait`` looks at."""
        with self._changed:
            yield
            self._changed.notify_all()

    def _stop(self) -> None:
        """Let every thread end at its next step."""
        with self._changed:
            self._stopped = True
        self._interrupt()

    def _run(self) -> None:
        with self._changed:
            if self._stopped:
                return
            self._working += 1
        try:
            while blob := self._next():
                self._work(blob, partial(self._tell, blob.digest))
                with self.changing():
                    self._left -= 1
        except StoppedError:
            pass  # the one that raised first tells why
        except BaseException as error:
            with self.changing():
                self._failure = self._failure or error
            self._stop()
        finally:
            with self.changing():
                self._working -= 1

    def _next(self) -> Descriptor | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _tell(self, digest: str, count: int) -> None:
        with self._telling:
            if self._stopped:
                raise StoppedError
            self._done[digest] = count
            if self._progress is not None:
                self._progress(self._stage, sum(self._done.values()), self._size)
