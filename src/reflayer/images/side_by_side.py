"""Blobs at once, each in a thread: hashing and waiting let go of the interpreter's lock."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reflayer.images.descriptor import Descriptor

_HANDS = 4


def side_by_side(
    work: Callable[[Descriptor], None], blobs: Iterable[Descriptor], stop: Callable[[], None]
) -> None:
    """Call ``work`` for each blob, four at once.

    Where one fails, or this thread is interrupted, ``stop`` is to end the others, and those that
    wait for their turn are not begun.

    Raises:
        BaseException: what ``work`` raised.
    """
    with ThreadPoolExecutor(_HANDS, "reflayer-blob") as pool:
        try:
            futures = [pool.submit(work, one) for one in blobs]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
