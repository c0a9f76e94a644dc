"""What brings blobs into the blob store, several side by side."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from reflayer.images.content.resolve import choose_image
from reflayer.images.model.descriptor import check_size
from reflayer.progress import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.resolve import Open
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.document import Document
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

    Told = Callable[[int], None]  # the bytes of a blob that are done

    class Sized(Protocol):
        @property
        def size(self) -> int: ...


_WORKERS = 4

Item = TypeVar("Item", bound="Sized")


def _nothing() -> None:
    pass


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


class Transfer(Generic[Item]):
    """Blobs on their way, several at once, or what is made of them: each has a size in bytes."""

    # Threads: hashing and waiting let go of the interpreter's lock. The obvious ThreadPoolExecutor
    # loses one: a signal while it starts a thread keeps it from knowing of that thread, for which
    # it does not wait then. Here a thread counts itself, and none begins anything after ``stop``.

    def __init__(
        self,
        stage: str,
        blobs: Iterable[Item],
        work: Callable[[Item, Told], None],
        progress: Progress | None,
        interrupt: Callable[[], None] = _nothing,
        workers: int = _WORKERS,
    ) -> None:
        """Nothing goes on yet.

        Args:
            stage: what ``progress`` is told of, in bytes, by one thread at a time.
            blobs: they are begun in this order.
            work: gets a blob, and what to call with the number of its bytes that are done.
            progress: may raise, which is as if ``work`` did.
            interrupt: wakes the threads that wait within ``work``, other than by ``wait``.
            workers: how many blobs at once.
        """
        self._changed = threading.Condition()
        self._stage = stage
        self._waiting = deque(enumerate(blobs))
        self._done = [0] * len(self._waiting)
        self._sizes = [one.size for _, one in self._waiting]
        self._size = sum(self._sizes)
        self._left = len(self._waiting)
        self._work = work
        self._progress = progress
        self._interrupt = interrupt
        self._workers = min(workers, len(self._waiting))
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
            for number in range(self._workers):
                threading.Thread(target=self._run, name=f"reflayer-{self._stage}-{number}").start()
            yield
            self.wait()
        except BaseException:
            self.stop()
            with self._changed:
                self._changed.wait_for(lambda: not self._working)
            raise

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until ``ready``, or for all blobs; raise what made one fail instead.

        Raises:
            StoppedError: there is no need to wait.
        """
        is_ready = ready or (lambda: not self._left)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or is_ready())
            if self._failure is not None:
                raise self._failure
            if self._stopped:
                raise StoppedError

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The block changes what a thread in ``wait`` looks at."""
        with self._changed:
            yield
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every thread end at its next step."""
        with self.changing():
            self._stopped = True
        self._interrupt()

    def _run(self) -> None:
        with self._changed:
            if self._stopped:
                return
            self._working += 1
        try:
            while found := self._next():
                number, blob = found
                self._work(blob, partial(self._tell, number))
                with self.changing():
                    self._left -= 1
        except StoppedError:
            pass  # the one that raised first tells why
        except BaseException as error:
            with self.changing():
                self._failure = self._failure or error
            self.stop()
        finally:
            with self.changing():
                self._working -= 1

    def _next(self) -> tuple[int, Item] | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _tell(self, number: int, count: int) -> None:
        with self._telling:
            if self._stopped:
                raise StoppedError
            self._done[number] = count
            if self._progress is not None:
                sizes = enumerate(zip(self._done, self._sizes, strict=True), 1)
                under_way = [at for at, (done, size) in sizes if 0 < done < size]
                stage = Stage(self._stage, under_way, len(self._sizes))
                self._progress(stage, sum(self._done), self._size)
