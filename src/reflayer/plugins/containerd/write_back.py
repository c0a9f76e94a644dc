"""What appliers unpack is written out to disk beside them, so that a commit waits for little of it.

Nobody tells how far an applier is: so it is looked, now and then, whether the file system has lost
room since.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress

from reflayer.driver.home import opened
from reflayer.driver.write_back import writing_back
from reflayer.errors import OperationError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SOONEST, _LATEST = 0.05, 1.0  # seconds between two looks; twice as many after one that saw nothing


class WriteBack:
    """Writes out the file system of a home while layers are unpacked there; for any thread."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._changed = threading.Condition()
        self._folders: dict[str, int] = {}  # the home, by layer that is being filled
        self._lost: dict[str, OperationError] = {}  # why what is in a layer may not be on the disk
        self._thread: threading.Thread | None = None

    def begin(self, layer: str) -> None:
        """Begin, before anything is unpacked into ``layer``."""
        with opened(self._home) as folder, self._changed:
            self._folders[layer] = os.dup(folder)
            self._changed.notify_all()
            if self._thread is None:
                free = _free(self._home)
                thread = threading.Thread(target=self._run, args=(free,), name="unpacking")
                with suppress(RuntimeError):  # no more threads for this user: the commit does it
                    thread.start()
                    self._thread = thread

    @contextmanager
    def opened(self, layer: str) -> Iterator[int]:
        """The home, open since ``layer`` was begun, so that syncfs(2) tells all errors since.

        Where this process did not begin it, it is opened now.

        Raises:
            OperationError: what was in an earlier block. The kernel tells once what could not be
                written, and takes it for written then: so a second try would pass.
        """
        with self._changed:
            if layer in self._lost:
                raise self._lost[layer]
            folder = self._folders.get(layer)
            own = None if folder is None else os.dup(folder)
        if own is None:
            with opened(self._home) as fd:
                yield fd
            return
        try:
            yield own
        except OperationError as error:
            if error.operation == "syncfs":
                self._lost[layer] = error
            raise
        finally:
            os.close(own)

    def end(self, layer: str) -> None:
        """Nothing more comes into ``layer``; it is no error where it was not begun."""
        with self._changed:
            folder = self._folders.pop(layer, None)
            self._lost.pop(layer, None)
            self._changed.notify_all()
        if folder is not None:
            os.close(folder)

    def close(self) -> None:
        """End all, and wait for what is being written out."""
        for layer in list(self._folders):
            self.end(layer)
        if (thread := self._thread) is not None:
            thread.join()

    def _run(self, free: int) -> None:
        while True:
            # What could not be written is told to those that commit, by their own descriptors.
            with suppress(OperationError), writing_back(self._home, self._home) as come_to:
                free = self._look(come_to, free)
            with self._changed:
                if not self._folders:
                    self._thread = None
                    return
                self._changed.wait(_LATEST)

    def _look(self, come_to: Callable[[int], None], free: int) -> int:
        """Tell ``come_to`` how many bytes have come, as long as there are layers to be filled.

        ``free`` is how many were free before; how many are in the end is returned.
        """
        came, pause = 0, _SOONEST
        while True:
            with self._changed:
                is_told = self._changed.wait(pause)
                if not self._folders:
                    return free
            now = _free(self._home)
            pause = _SOONEST if is_told or now < free else min(2 * pause, _LATEST)
            came += max(0, free - now)
            free = now
            come_to(came)


def _free(home: str) -> int:
    with failing(home, "statvfs"):
        status = os.statvfs(home)
    return status.f_bfree * status.f_frsize
