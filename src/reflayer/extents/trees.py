"""Several trees measured side by side: by this process, and by helpers where that takes long."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from reflayer.extents.tree import measure_tree
from reflayer.workers.cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reflayer.copy.paths import AnyPath
    from reflayer.extents.helpers import Helper
    from reflayer.extents.usage import TreeUsage

_ALONE = 0.1  # seconds that the caller measures before it calls for help: three times a start


def measure_trees(
    paths: Sequence[AnyPath],
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[TreeUsage]:
    """``measure_tree`` of each, in that order; a tree is measured by one process.

    Args:
        paths: the trees.
        workers: processes that work on them, this one included; by default as many as there are
            processors. Small trees never wait for one.
        progress: is called now and then, by this thread, with the entries since the last call.

    Raises:
        OperationError: as ``measure_tree`` does, the first that any process met; or a helper died.
    """
    crew = _Crew(paths, usable_cpus() if workers is None else workers, progress)
    try:
        return crew.measure()
    finally:
        crew.end()


class _Crew:
    """This process and its helpers: each takes the next tree when it has nothing to do."""

    def __init__(
        self, paths: Sequence[AnyPath], workers: int, progress: Callable[[int], None] | None
    ) -> None:
        self._paths = paths
        self._waiting = deque(range(len(paths)))
        self._usages: dict[int, TreeUsage] = {}
        self._missing = workers - 1  # helpers that may be called
        self._busy: dict[Helper, int] = {}
        self._idle: list[Helper] = []
        self._progress = progress
        self._started = time.monotonic()

    def measure(self) -> list[TreeUsage]:
        while self._waiting:
            number = self._waiting.popleft()
            self._usages[number] = measure_tree(self._paths[number], progress=self._pause)
        while self._busy:
            self._hear(wait=True)
        return [self._usages[number] for number in range(len(self._paths))]

    def end(self) -> None:
        for helper in (*self._busy, *self._idle):
            helper.end()

    def _pause(self, entries: int) -> None:
        """Between two folders: tell how far it is, hear the helpers, give them work."""
        self._tell(entries)
        if self._busy:
            self._hear(wait=False)
        while self._waiting and (helper := self._hire()) is not None:
            number = self._waiting.popleft()
            self._busy[helper] = number
            helper.ask(self._paths[number])

    def _hire(self) -> Helper | None:
        """A helper that has nothing to do; None where there is none, or it is too early for one."""
        if self._idle:
            return self._idle.pop()
        if self._missing <= 0 or time.monotonic() - self._started < _ALONE:
            return None
        from reflayer.extents.helpers import Helper

        self._missing -= 1
        try:
            return Helper()
        except OSError:
            self._missing = 0  # it goes without, only slower
            return None

    def _hear(self, *, wait: bool) -> None:
        from reflayer.extents.helpers import speaking

        for helper in speaking(self._busy, wait=wait):
            told = helper.answer()
            if isinstance(told, int):
                self._tell(told)
                continue
            self._usages[self._busy.pop(helper)] = told
            self._idle.append(helper)

    def _tell(self, entries: int) -> None:
        if self._progress is not None:
            self._progress(entries)
