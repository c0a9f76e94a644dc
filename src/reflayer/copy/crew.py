"""All hands of one copy, as the caller leads them: itself first, helpers when the tree is large."""

from __future__ import annotations

import os
import select
import socket
import time

from reflayer.copy.board import MOST_HANDS, Board
from reflayer.copy.hand import Hand
from reflayer.copy.helpers import Helper, Pool
from reflayer.copy.sharing import Sharing
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.birth import Birth
    from reflayer.copy.folder import Folder
    from reflayer.copy.job import Job
    from reflayer.copy.links import Links

_ALONE = 0.008  # seconds that the caller copies before it asks for help
_TELL = 0.1  # seconds between two calls of a progress callback


class Crew:
    """The hands of one copy."""

    def __init__(
        self,
        job: Job,
        birth: Birth,
        links: Links,
        root: int,
        workers: int,
        pool: Pool | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Prepare a copy into ``root``, an open folder, by at most ``workers`` processes."""
        self.hand = Hand(job, birth, links, self._pause)
        self._job = job
        self._birth = birth
        self._root = root
        # memfd_create(2) and all else that hands share is Linux's.
        self._workers = min(workers, MOST_HANDS) if hasattr(os, "memfd_create") else 1
        self._pool = pool or Pool(self._workers - 1)
        self._is_own_pool = pool is None
        self._helpers: list[Helper] = []
        self._progress = progress
        self._started = self._told = time.monotonic()
        self._stop: BaseException | None = None  # what the callback raised
        self._sharing: Sharing | None = None

    def copy(self, root: Folder) -> None:
        """Copy everything below ``root`` and close it.

        Raises:
            CopyError: the first error that any hand met. No hand is at work any more.
            BaseException: what the progress callback raised. The same holds.
        """
        try:
            self.hand.copy_below(root)
            if self._sharing is not None:
                self._finish_together(self._sharing)
        except CopyError:
            if self._stop is not None:  # an OSError of its own, taken for one of the file at hand
                raise self._stop from None
            raise
        finally:
            for helper in self._helpers:  # left here by an error: they must not go on
                self._pool.bury(helper)
            self._helpers.clear()
            if self._sharing is not None:
                self._sharing.give_to.close()
                self._sharing.take_from.close()
                self._sharing.board.close()
            if self._is_own_pool:
                self._pool.close()

    def _pause(self, hand: Hand) -> None:
        """Between two entries: tell how far it is, call for help, give work away, see errors."""
        now = time.monotonic()
        if len(self._helpers) + 1 < self._workers and (
            now - self._started > _ALONE or self._pool.has_one_up()
        ):
            self._hire()
        if self._progress is not None and now - self._told > _TELL:
            self._told = now
            try:
                self._progress(*self._done())
            except BaseException as error:
                self._stop = error
                raise
        sharing = self._sharing
        if sharing is not None and sharing.board.calls():
            if sharing.board.failed():
                self._raise_error()
            hand.share(sharing)

    def _hire(self) -> None:
        try:
            helper = self._pool.hire()
        except OSError:
            self._workers = 1 + len(self._helpers)  # it goes without, only slower
            return
        if helper is None:
            return
        if self._sharing is None:
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._sharing = self.hand.sharing = Sharing(Board(self._workers), *pair)
        sharing = self._sharing
        slot = len(self._helpers) + 1
        self._helpers.append(helper)
        fds = [sharing.give_to.fileno(), sharing.take_from.fileno(), sharing.board.fd, self._root]
        birth = self._birth
        settings = (birth.uid, birth.gid, birth.powerful)
        try:
            helper.ask((self._job.pack(), self._workers, slot, *settings), fds)
        except ConnectionError:  # it died while it was waiting in the pool
            self._helpers.remove(helper)
            self._pool.bury(helper)

    def _finish_together(self, sharing: Sharing) -> None:
        """Work for the others until all is done, and gather what they report."""
        board = sharing.board
        poll = select.poll()
        poll.register(sharing.take_from, select.POLLIN)
        by_fd = {helper.socket.fileno(): helper for helper in self._helpers}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        self._workers = len(by_fd) + 1
        board.rest()
        while not board.finished():
            for fd, _ in poll.poll(_TELL * 1000):
                if fd in by_fd:
                    self._hear(by_fd[fd])
                else:
                    work = sharing.take(wait=False)
                    if work is not None:
                        self.hand.do(work)
                        board.rest()
            self._pause(self.hand)
        absent = [h for n, h in enumerate(self._helpers, 1) if not board.joined(n)]
        for helper in absent:
            if self._is_own_pool or not helper.is_up():
                self._helpers.remove(helper)
                self._pool.bury(helper)  # it has only just been started
        for _ in self._helpers:
            sharing.end()
        while self._helpers:
            while not self._hear(self._helpers[-1]):
                pass
            self._pool.release(self._helpers.pop())

    def _hear(self, helper: Helper) -> bool:
        """Take one message of a helper; whether it was its report, which is added to our own."""
        kind, *values = helper.answer()
        if kind == "error":
            path, operation, reason, number = values
            raise CopyError(path, operation, reason, number)  # type: ignore[arg-type]
        if kind != "report":
            return False
        hand = self.hand
        for mine, theirs in zip(
            (hand.entries.made, hand.content.moved, hand.metadata.skipped), values, strict=True
        ):
            assert isinstance(theirs, dict)
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        return True

    def _raise_error(self) -> None:
        """Raise the error that a helper has announced."""
        poll = select.poll()
        by_fd = {helper.socket.fileno(): helper for helper in self._helpers}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                self._hear(by_fd[fd])

    def _done(self) -> tuple[int, int]:
        entries, size = self.hand.entries.count(), self.hand.content.count()
        if self._sharing is not None:
            others = self._sharing.board.done()
            entries, size = entries + others[0], size + others[1]
        return entries, size
