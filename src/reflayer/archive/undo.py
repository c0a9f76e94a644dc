"""What changed in a clone since it was made is undone: it is again what the stack is.

What changed is told by ctimes (``untouched``). What has a late one is made anew, and only folders
stay and get back what they had; one that may be another than the one that was cloned there is made
anew with all in it. All names of an inode share its ctime; where one of them has to be made anew,
or was moved out, all are.

So nothing is compared, and of the stack no more is read than what is made. Each step leaves what
has a late ctime: after a crash amid it, the same once more goes on from there.
"""

from __future__ import annotations

import _thread
import errno
import os
import stat
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cached_property, partial

from reflayer.archive.untouched import Scan, first_folders, is_held, look_at
from reflayer.errors import OperationError, failing
from reflayer.linux.inode_flags import change_flags, inode_flags, unshut
from reflayer.walk.folders import (
    OPEN_ANY_FOLDER,
    OPEN_FILE,
    OPEN_FOLDER,
    identity,
    names_in,
    open_beneath,
    open_noatime,
)
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence

    from reflayer.archive.untouched import Unseen
    from reflayer.copy.folder import Folder, Job
    from reflayer.copy.source import Source
    from reflayer.copy.worker import Worker
    from reflayer.linux.inode_flags import Flags
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.stack import AnyStack, Stack, Union

    Wanted = dict[bytes, list[bytes]]
    """By the path of a folder the names in it that are to be made."""

_SHUT = frozenset({errno.EPERM, errno.EACCES})
_DEFAULT_ACL = "system.posix_acl_default"


def undo(
    root: AnyPath,
    stack: AnyStack,
    cloned: int,
    *,
    known: dict[int, int] | None = None,
    paths: dict[bytes, int] | None = None,
    held: Container[int] | None = None,
    was: AnyStack | None = None,
    between: Sequence[AnyPath] = (),
    method: str = "auto",
    ownership: str = "keep",
    workers: int | None = None,
) -> int | None:
    """Let the folder ``root`` be again the clone of ``stack`` that it was, by now.

    Access times stay as they are. Nobody else may change it meanwhile.

    Args:
        root: the clone.
        stack: of what it is one, or is to be one; not changed since.
        cloned: when it was complete, in nanoseconds, by the clock that stamps its inodes.
        known: the inodes of folders in it at that time, by ``folder_key``, as ``copy_tree`` tells
            them; those that are made are put in.
        paths: the inodes of folders in it at that time, by their paths from it. In the end they are
            those of all that are still as they were cloned.
        held: numbers of the folders that others have open; it is then also an error if a file that
            would stay is open or mapped. None where that is not to be looked at.
        was: of what it is one, if that is another stack.
        between: the differences that one of the two stacks has, and the other has not.
        method: how content is copied, as for ``copy_tree``.
        ownership: ``keep``, ``record`` or ``ignore``, as for ``copy_tree``.
        workers: threads that work on it.

    Returns:
        How many names were made; None where nothing has changed.

    Raises:
        OperationError: it cannot be told what changed, or not be undone. It is left half done: once
            more, with the same ``cloned``, goes on with it.
    """
    from reflayer.archive.between import add_between
    from reflayer.walk.stack import Union, stack_of

    path = os.fsencode(root)
    with failing(path, "undo what changed"):
        top = open_noatime(path, None, OPEN_ANY_FOLDER)
        with ExitStack() as until:
            until.callback(os.close, top)
            known, layers = {} if known is None else known, stack_of(stack)
            with Union.root(layers) as below:
                with nullcontext(below) if was is None else Union.root(stack_of(was)) as before:
                    scan = Scan(path, cloned, partial(is_known, known, paths or {}, before), held)
                    way_back = _Undo(
                        path, top, layers, below, scan, cloned, method, ownership, workers
                    )
                    until.callback(way_back.close)
                    # Where it is not to be kept if anything hinders, that is found out meanwhile.
                    way_back.look(is_undone=held is not None)
                for failed, number in scan.failed.items():
                    raise OperationError.from_os_error(
                        OSError(number, os.strerror(number)),
                        os.path.join(path, failed),
                        "undo what changed",
                    )
                if between:
                    add_between(scan, top, below, map(os.fsencode, between))
                if not (scan.touched or scan.stale or way_back.done or way_back.is_late):
                    if paths is not None:
                        paths.update(scan.folders)
                    return None
                return way_back.finish(known, paths)


class _Undo:
    """One clone on its way back, folder by folder.

    The root comes last: in it a copy tries something, and has inodes of several names wait.
    """

    def __init__(
        self,
        root: bytes,
        top: int,
        stack: Stack,
        above: Union,
        scan: Scan,
        cloned: int,
        method: str,
        ownership: str,
        most: int | None,
    ) -> None:
        self._root = root
        self._top = top
        self._stack = stack
        self._above = above
        self._scan = scan
        self._cloned = cloned
        self._method = method
        self._ownership = ownership
        self._most = most
        self._source: Source | None = None
        self._turn = _thread.allocate_lock()
        self._begun: list[Worker] = []
        self._parted: Wanted = {}
        self._made: Wanted = {}
        self._folders: list[int] = []
        self._later: set[bytes] = set()  # to be settled when nobody works below any more
        self.done: set[bytes] = set()
        self.is_late = False  # a name of several has a late ctime by now

    def close(self) -> None:
        """Close what is open."""
        for worker in self._begun:
            worker.links.close()
        if self._source is not None:
            self._source.close()

    def look(self, *, is_undone: bool) -> None:
        """Look at all; what is found is undone meanwhile, or not yet."""
        self._work(first_folders(self._scan, self._top), is_undone=is_undone)
        for path, name in self._scan.linked if is_undone else ():
            with suppress(FileNotFoundError, NotADirectoryError), self._opened(path) as fd:
                if not stat.S_ISREG(os.lstat(name, dir_fd=fd).st_mode):
                    continue
                if is_held(fd, name):
                    raise self._scan.is_in_use(os.path.join(path, name))
                # By who had it open, or because another name of it was removed.
                self.is_late |= os.lstat(name, dir_fd=fd).st_ctime_ns >= self._cloned

    def finish(self, known: dict[int, int], paths: dict[bytes, int] | None) -> int:
        """Undo what is left to be undone; how many names were made in all."""
        from reflayer.copy.links import Links
        from reflayer.walk.stack import opened_in

        ready, scan = self._scan.ready, self._scan
        ready[:] = [b"", *({*scan.touched, *scan.stale} - self.done - {b""})]
        self._work([])
        self._part()
        ready += self._parted
        self._work([])
        if self._source is not None:
            Links(self._top, self._job.links).clear()
        for path in sorted(self._later, reverse=True):
            with self._opened(path) as fd, opened_in(self._above, path) as union:
                self._settle(path, fd, union)
        known.update(zip(self._folders[::2], self._folders[1::2], strict=True))
        if paths is not None:
            self._note_paths(paths)
        return sum(worker.entries.count() for worker in self._begun)

    def _work(self, folders: list[Unseen], *, is_undone: bool = True) -> None:
        """Let workers look at folders, and restore those that are ready."""
        from reflayer.copy.worker import Worker

        def begin() -> Callable[[Folder | list[Unseen]], None]:
            begun: list[Worker] = []

            def worker() -> Worker:
                if not begun:
                    begun.append(Worker(self._job, self._top, workers))
                    self._begun.append(begun[0])
                return begun[0]

            def do(work: Folder | list[Unseen]) -> None:
                if isinstance(work, list):
                    look_at(workers, work, partial(self._restore_next, worker, is_undone))
                else:
                    worker().copy_below(work)

            return do

        workers = Workers(begin, self._most)
        workers.run(folders)

    def _restore_next(self, worker: Callable[[], Worker], is_undone: bool) -> bool:
        """Restore a folder that is ready, while nobody else does; whether there was one.

        That is many short calls. Two threads at it wait for the interpreter more than they gain;
        one goes well beside another that looks at folders, which is few long calls.
        """
        from reflayer.walk.stack import opened_in

        ready = self._scan.ready
        if not is_undone or not self._turn.acquire(blocking=False):
            return False
        try:
            if not ready:  # to be asked only now: another may have had the last
                return False
            path = ready.pop()
            with self._opened(path) as fd, opened_in(self._above, path) as union:
                names = {*self._clean(path, fd, union), *self._parted.get(path, ())}
                self.done.add(path)
                if (names and self._fill(worker(), path, fd, union, names)) or not path:
                    self._later.add(path)
                else:
                    self._settle(path, fd, union)
        finally:
            self._turn.release()
        return True

    @cached_property
    def _job(self) -> Job:
        from reflayer.copy.folder import Job
        from reflayer.copy.source import Source

        if b"" in self._scan.touched:
            self._clear_flags(b"", self._top)
        _make_plain(self._top, None)
        self._source = Source(self._stack, cross_mounts=False)
        job = Job(self._source, self._top, self._method, self._ownership, cross_mounts=False)
        job.folders = self._folders
        return job

    def _clean(self, path: bytes, fd: int, union: Union) -> list[bytes]:
        """Remove what is not as it was cloned; the names that are to be made."""
        scan = self._scan
        stale = [*scan.stale.pop(path, ())]
        is_touched = path in scan.touched
        if is_touched:
            self._clear_flags(path, fd)
        for name in stale:
            _unlink(fd, name)
        if not is_touched:
            return stale
        left = names_in(fd)
        if self._source is not None:
            left.discard(os.fsencode(self._job.links))
        for name in [*left] if scan.others else ():
            other = os.path.join(path, name)
            if other in scan.others:
                _remove_tree(fd, name, os.path.join(self._root, other))
                scan.others.remove(other)
                left.remove(name)
        before = names_in(union.parts[0].fd) if union.is_plain else {*union.names()}
        if not left <= before:
            where = os.path.join(self._root, path, min(left - before))
            raise OperationError(where, "undo what changed", "the layers below were changed")
        return [*(before - left)]

    def _note_paths(self, paths: dict[bytes, int]) -> None:
        """Let the folders that are still as they were cloned be known by their paths.

        Those that are made anew are not: their numbers may be those of what was removed.
        """
        gone = {os.path.join(path, name) for path, names in self._made.items() for name in names}
        paths.clear()
        for path, inode in sorted(self._scan.folders.items()):
            if path and (path in gone or path.rpartition(b"/")[0] in gone):
                gone.add(path)
            else:
                paths[path] = inode

    def _part(self) -> None:
        """Remove names whose inodes have lost another one, or have one that is not here."""
        found: dict[tuple[int, int], list[tuple[bytes, bytes]]] = {}
        late = set()
        made = {(path, name) for path, names in self._made.items() for name in names}
        for path, name in {*self._scan.linked} - made:
            with suppress(FileNotFoundError, NotADirectoryError), self._opened(path) as fd:
                status = os.lstat(name, dir_fd=fd)
                key = identity(status)
                found.setdefault(key, []).append((path, name))
                if status.st_ctime_ns >= self._cloned or status.st_nlink != len(found[key]):
                    late.add(key)
                else:
                    late.discard(key)
        for key in late:
            for path, name in found[key]:
                with self._opened(path) as fd:
                    _unlink(fd, name)
                self._parted.setdefault(path, []).append(name)

    def _fill(
        self, worker: Worker, path: bytes, fd: int, union: Union, names: Collection[bytes]
    ) -> bool:
        """Make ``names`` in a folder, as the layer has them that shows them; if any is a folder."""
        from reflayer.copy.folder import FOLDER, Folder, kind_of

        _make_plain(fd, self._job.new.gid)
        self._made.setdefault(path, []).extend(names)
        places = None if union.is_plain else union.places()
        plain: dict[int, list[tuple[int, bytes]]] = {}
        merged: dict[bytes, list[int]] = {}
        has_folders = False
        for name in names:
            here = [0] if places is None else places[name]
            kind = kind_of(os.lstat(name, dir_fd=union.parts[here[0]].fd).st_mode)
            has_folders |= kind == FOLDER
            if len(here) > 1 and kind == FOLDER:
                merged[name] = [union.parts[place].layer for place in here]
                plain.setdefault(here[0], [])
            else:
                plain.setdefault(here[0], []).append((kind, name))
        for place, some in plain.items():
            part = union.parts[place]
            folder = Folder(None, path, os.dup(part.fd), os.dup(fd), part.layer)
            several = {n: found for n, found in merged.items() if found[0] == part.layer}
            worker.copy_names(folder, some, several)
        return has_folders

    def _settle(self, path: bytes, fd: int, union: Union) -> None:
        """Give a folder the metadata that it has in the stack."""
        from reflayer.walk.facts import Facts, FailedError, list_attributes, read_attributes
        from reflayer.walk.metadata import Metadata

        metadata = Metadata(self._ownership)
        try:
            part = union.parts[0]
            names = list_attributes(part.fd)
            found = part.attributes(read_attributes(part.fd, names, metadata.skip))
            for name in list_attributes(fd):
                if name not in found:
                    os.removexattr(fd, name)
            facts, now = Facts(part.status(os.fstat(part.fd)), found), os.fstat(fd)
            is_owned = (now.st_uid, now.st_gid) == (facts.uid, facts.gid)
            # XFS before Linux 5.18 takes the setgid bit with it, but for root of the machine.
            mode = stat.S_IMODE(now.st_mode) if is_owned else -1
            metadata.set_all(fd, facts, now.st_uid, now.st_gid, mode)
        except FailedError as error:
            where = os.path.join(self._root, path)
            raise OperationError.from_os_error(error.cause, where, error.operation) from error

    def _clear_flags(self, path: bytes, fd: int) -> None:
        """Let a folder have no flags of chattr(1) but those that it was made with."""
        found, fresh = inode_flags(fd), self._fresh_flags
        if found != fresh:
            change_flags(fd, add=fresh[0])
            if inode_flags(fd) != fresh:
                where = os.path.join(self._root, path)
                raise OperationError(where, "chattr", "it has flags that cannot be taken back")

    @cached_property
    def _fresh_flags(self) -> Flags:
        """What is made anew inherits from the folder that the clone is in."""
        folder = os.open(os.path.dirname(self._root.rstrip(b"/")) or b".", OPEN_ANY_FOLDER)
        try:
            return inode_flags(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        """The folder at ``path``."""
        fd = open_beneath(self._top, path, cross_mounts=False)
        try:
            yield fd
        finally:
            os.close(fd)


def is_known(
    known: Mapping[int, int], paths: Mapping[bytes, int], stack: Union, path: bytes, inode: int
) -> bool:
    """Whether the folder ``path`` of a clone has the inode that the folder cloned there got."""
    from reflayer.copy.folder import folder_key

    if paths.get(path) == inode:
        return True
    for part in stack.parts:
        with suppress(OSError):
            status = os.lstat(path, dir_fd=part.fd)
            if known.get(folder_key(part.layer, status.st_ino)) == inode:
                return True
    return False


def _make_plain(fd: int, group: int | None) -> None:
    """Let an open folder hand nothing down to what is made in it, until it is settled again."""
    status = os.fstat(fd)
    if status.st_mode & stat.S_ISGID or status.st_mode & 0o700 != 0o700:
        os.chmod(fd, 0o700)
    if group is not None and status.st_gid != group:
        with suppress(PermissionError):
            os.chown(fd, -1, group)
    with suppress(OSError):  # it has none, as nearly always
        os.removexattr(fd, _DEFAULT_ACL)


def _unlink(folder: int, name: bytes) -> None:
    """Unlink a name, be it immutable."""
    try:
        os.unlink(name, dir_fd=folder)
    except PermissionError:
        _let_change(folder, name)
        os.unlink(name, dir_fd=folder)


def _remove_tree(folder: int, name: bytes, path: bytes) -> None:
    """Remove a folder with all in it, be some of that immutable."""
    from reflayer.walk.empty import empty_folder
    from reflayer.walk.folders import open_shut

    def open_it() -> int:
        try:
            return os.open(name, OPEN_FOLDER, dir_fd=folder)
        except PermissionError:
            return open_shut(name, folder)

    try:
        empty_folder(open_it(), path)
        os.rmdir(name, dir_fd=folder)
    except (OperationError, PermissionError) as error:
        if error.errno not in _SHUT:
            raise
        fd = open_it()
        try:
            unshut(fd)
            for _, folders, files, inside in os.fwalk(b".", dir_fd=fd):
                for one in (*folders, *files):
                    with suppress(OSError):
                        _let_change(inside, one)
        finally:
            os.close(fd)
        empty_folder(open_it(), path)
        os.rmdir(name, dir_fd=folder)


def _let_change(folder: int, name: bytes) -> None:
    fd = open_noatime(name, folder, OPEN_FILE)
    try:
        unshut(fd)
    finally:
        os.close(fd)
