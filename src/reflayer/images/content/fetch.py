"""An image's blobs into the content store: what is missing, several layers at once."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from reflayer.images.content.resolve import choose_image
from reflayer.images.model.descriptor import check_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.images.content.blob_store import Content
    from reflayer.images.content.resolve import Open
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.document import Document
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress


def fetch_image(image: Image, open_blob: Open, content: Content, progress: Progress | None) -> None:
    """Bring ``image`` into ``content``, its manifest last.

    Args:
        image: it.
        open_blob: opens a blob of the source by its digest; from several threads at once.
        content: where the blobs go. Those that are there are not read.
        progress: is told of stage ``fetch``, in bytes, by one thread at a time.

    Raises:
        ImageError: a blob is missing or not what it should be.
        OperationError: a blob could not be read or written.
    """
    add_blobs(content, open_blob, (image.config, *image.layers), progress)
    add_blobs(content, open_blob, (image.manifest,), None)
    content.sync()


def fetch_listed(
    index: Document,
    which: str,
    open_blob: Open,
    content: Content,
    platform: Platform | None,
    progress: Progress | None,
    where: str,
) -> tuple[Image, Descriptor]:
    """Bring in the image of a layout that ``which`` names; return what is listed for it, too.

    The arguments are those of ``choose_image`` and ``fetch_image``, which tell what is raised.
    """
    near = nearest(content, open_blob)
    image, top = choose_image(index, which, platform, near, where)
    fetch_image(image, open_blob, content, progress)
    return image, top


def nearest(content: Content, open_blob: Open) -> Open:
    """Opens a blob where ``content`` has it, else by ``open_blob``."""
    return lambda digest: content.open(digest) if content.has(digest) else open_blob(digest)


def add_blobs(
    content: Content,
    open_blob: Open,
    descriptors: tuple[Descriptor, ...],
    progress: Progress | None,
) -> None:
    """Add the blobs that ``content`` lacks, the largest first, several at once.

    Raises:
        ImageError: one is missing or not what it should be.
        OperationError: one could not be read or written.
    """
    blobs = {one.digest: one for one in descriptors}
    for one in blobs.values():
        if content.has(one.digest):
            check_size(content.size(one.digest), one.size, one.digest)
    missing = [one for one in blobs.values() if not content.has(one.digest)]
    missing.sort(key=lambda one: one.size, reverse=True)
    total = _Total(sum(one.size for one in missing), progress)

    def add(one: Descriptor) -> None:
        with total.working(), open_blob(one.digest) as blob:
            content.add(blob, digest=one.digest, size=one.size, progress=total.part())

    if len(missing) < 2:
        for one in missing:
            add(one)
        return
    side_by_side(add, missing, total.stop)


class _StoppedError(Exception):
    """Another blob failed: no need to go on with this one."""


class _Total:
    """What is done of several blobs together."""

    def __init__(self, size: int, progress: Progress | None) -> None:
        self._size = size
        self._progress = progress
        self._done = 0
        self._working = 0
        self._lock = threading.Condition()
        self._stopped = False

    def part(self) -> Callable[[int], None]:
        """What one blob is to call with the bytes that are done of it."""
        before = 0

        def told(done: int) -> None:
            nonlocal before
            with self._lock:
                if self._stopped:
                    raise _StoppedError
                self._done += done - before
                before = done
                if self._progress is not None:
                    self._progress("fetch", self._done, self._size)

        return told

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work on one blob; none is begun after ``stop``."""
        with self._lock:
            if self._stopped:
                raise _StoppedError
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                self._lock.notify_all()

    def stop(self) -> None:
        """Let every blob end at its next step, and wait until all have.

        Those of a thread, too, that a signal kept its pool from knowing of.
        """
        with self._lock:
            self._stopped = True
            self._lock.wait_for(lambda: not self._working)


_WORKERS = 4


def side_by_side(
    work: Callable[[Descriptor], None], blobs: Iterable[Descriptor], stop: Callable[[], None]
) -> None:
    """Call ``work`` for each blob, four at once.

    Where one fails, or this thread is interrupted, ``stop`` is to end the others, and those that
    wait for their turn are not begun.

    Raises:
        BaseException: what ``work`` raised.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(_WORKERS, "reflayer-blob") as pool:
        try:
            futures = [pool.submit(work, one) for one in blobs]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
