"""What changed in a clone since it was made is undone: it is again what the stack is.

What changed is told by ctimes (``untouched``). What has a late one is made anew, and only folders
stay and get back what they had; one that may be another than the one that was cloned there is made
anew with all in it. All names of an inode share its ctime; where one of them has to be made anew,
or was moved out, all are.

So nothing is compared, and of the stack no more is read than what is made. Each step leaves what
has a late ctime: after a crash amid it, the same once more goes on from there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cached_property, partial

from reflayer.archive.untouched import Scan, look
from reflayer.errors import OperationError, failing
from reflayer.linux.inode_flags import change_flags, inode_flags, unshut
from reflayer.walk.folders import (
    OPEN_ANY_FOLDER,
    OPEN_FILE,
    OPEN_FOLDER,
    identity,
    open_beneath,
    open_noatime,
)
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from reflayer.copy.folder import Folder, Job
    from reflayer.copy.source import Source
    from reflayer.copy.worker import Worker
    from reflayer.linux.inode_flags import Flags
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.stack import AnyStack, Stack, Union

    Wanted = dict[bytes, list[bytes]]
    """By the path of a folder the names in it that are to be made."""

_MOST_OPEN = 256  # folders that are open from one step to the next
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
        try:
            known = {} if known is None else known
            way_back = _Undo(path, top, stack_of(stack), cloned, known, paths)
            with way_back.opened_stack() as below:
                with nullcontext(below) if was is None else Union.root(stack_of(was)) as before:
                    scan = Scan(path, cloned, partial(is_known, known, paths or {}, before), held)
                    look([(scan, top)], workers)
                for failed, number in scan.failed.items():
                    raise OperationError.from_os_error(
                        OSError(number, os.strerror(number)),
                        os.path.join(path, failed),
                        "undo what changed",
                    )
                if between:
                    add_between(scan, top, below, map(os.fsencode, between))
                if not (scan.touched or scan.stale):
                    if paths is not None:
                        paths.update(scan.folders)
                    return None
                return way_back.run(scan, method, ownership, workers)
        finally:
            os.close(top)


class _Undo:
    """One clone on its way back."""

    def __init__(
        self,
        root: bytes,
        top: int,
        stack: Stack,
        cloned: int,
        known: dict[int, int],
        paths: dict[bytes, int] | None,
    ) -> None:
        self._root = root
        self._top = top
        self._stack = stack
        self._cloned = cloned
        self._known = known
        self._paths = paths
        self._above: Union | None = None
        self._open: dict[bytes, int] = {}
        self._kept: dict[bytes, Union] = {}
        self._most_kept = _MOST_OPEN  # folders of layers
        self._until = ExitStack()

    @contextmanager
    def opened_stack(self) -> Iterator[Union]:
        """Let the stack be open while the block runs."""
        from reflayer.walk.stack import Union

        with Union.root(self._stack) as self._above:
            yield self._above

    def run(self, scan: Scan, method: str, ownership: str, workers: int | None) -> int:
        """Take away what the scan has found, make what is missing, and settle the folders."""
        from reflayer.copy.source import Source

        source = Source(self._stack, cross_mounts=False)
        try:
            for path in scan.touched:
                self._clear_flags(path)
            wanted = self._remove(scan)
            if self._paths is not None:
                self._note_paths(self._paths, scan, wanted)
            made = self._make(source, wanted, method, ownership, workers) if wanted else 0
            # In the root itself a copy tries something, and has files wait.
            for path in {*scan.touched, *wanted, *([b""] if wanted else ())}:
                self._settle(path, ownership)
        finally:
            source.close()
            self._until.close()
            for fd in self._open.values():
                os.close(fd)
            self._open.clear()
        return made

    def _remove(self, scan: Scan) -> Wanted:
        """Remove what is not as it was cloned; the names that are to be made."""
        wanted: Wanted = {}
        for path, names in scan.stale.items():
            with self._opened(path) as fd:
                for name in names:
                    _unlink(fd, name)
            wanted[path] = [*names]
        for path in scan.others:
            above, _, name = path.rpartition(b"/")
            with self._opened(above) as fd:
                _remove_tree(fd, name, os.path.join(self._root, path))
        for path in scan.touched:
            with self._opened(path) as fd, self._before(path) as union:
                left = {*os.listdir(fd)}
                before = (
                    {*os.listdir(union.parts[0].fd)}
                    if union.is_plain
                    else {*map(os.fsdecode, union.names())}
                )
            if not left <= before:
                where = os.path.join(self._root, path, os.fsencode(min(left - before)))
                raise OperationError(where, "undo what changed", "the layers below were changed")
            wanted[path] = [os.fsencode(name) for name in before - left]
        for path, name in self._parted(scan.linked):
            with self._opened(path) as fd:
                _unlink(fd, name)
            wanted.setdefault(path, []).append(name)
        return {path: names for path, names in wanted.items() if names}

    @staticmethod
    def _note_paths(paths: dict[bytes, int], scan: Scan, wanted: Wanted) -> None:
        """Let the folders that are still as they were cloned be known by their paths.

        Those that are made anew are not: their numbers may be those of what was removed.
        """
        gone = {*scan.others}
        for path, names in wanted.items():
            gone.update(os.path.join(path, name) for name in names)
        paths.clear()
        for path, inode in sorted(scan.folders.items()):
            if path and (path in gone or path.rpartition(b"/")[0] in gone):
                gone.add(path)
            else:
                paths[path] = inode

    def _parted(self, linked: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Those names whose inodes have lost another one, or have one that is not here."""
        found: dict[tuple[int, int], list[tuple[bytes, bytes]]] = {}
        late = set()
        for path, name in linked:
            with suppress(FileNotFoundError, NotADirectoryError), self._opened(path) as fd:
                status = os.lstat(name, dir_fd=fd)
                key = identity(status)
                found.setdefault(key, []).append((path, name))
                if status.st_ctime_ns >= self._cloned or status.st_nlink != len(found[key]):
                    late.add(key)
                else:
                    late.discard(key)
        for key in late:
            yield from found[key]

    def _make(
        self, source: Source, wanted: Wanted, method: str, ownership: str, most: int | None
    ) -> int:
        """Make the names in ``wanted``, by the workers of a copy."""
        from reflayer.copy.folder import Job
        from reflayer.copy.worker import Worker

        _make_plain(self._top, None)
        job = Job(source, self._top, method, ownership, cross_mounts=False)
        made: list[int] = []
        job.folders = made
        begun: list[Worker] = []

        def begin() -> Callable[[Folder | list[tuple[bytes, list[bytes]]]], None]:
            worker = Worker(job, self._top, workers)
            begun.append(worker)

            def do(work: Folder | list[tuple[bytes, list[bytes]]]) -> None:
                if isinstance(work, list):
                    while work:
                        half = len(work) // 2
                        if workers.pause() and half and workers.give(work[:half]):
                            del work[:half]
                        self._fill(worker, job, *work.pop())
                else:
                    worker.copy_below(work)

            return do

        workers = Workers(begin, most)
        try:
            workers.run([*wanted.items()])
            begun[0].links.clear()
        finally:
            for worker in begun:
                worker.links.close()
        self._known.update(zip(made[::2], made[1::2], strict=True))
        return sum(worker.entries.count() for worker in begun)

    def _fill(self, worker: Worker, job: Job, path: bytes, names: list[bytes]) -> None:
        """Make ``names`` in the folder at ``path``, each as the layer has it that shows it."""
        from reflayer.copy.folder import FOLDER, Folder, kind_of

        with self._before(path) as union, self._opened(path) as dst:
            _make_plain(dst, job.new.gid)
            places = None if union.is_plain else union.places()
            plain: dict[int, list[tuple[int, bytes]]] = {}
            merged: dict[bytes, list[int]] = {}
            for name in names:
                here = [0] if places is None else places[name]
                kind = kind_of(os.lstat(name, dir_fd=union.parts[here[0]].fd).st_mode)
                if len(here) > 1 and kind == FOLDER:
                    merged[name] = [union.parts[place].layer for place in here]
                    plain.setdefault(here[0], [])
                else:
                    plain.setdefault(here[0], []).append((kind, name))
            for place, some in plain.items():
                part = union.parts[place]
                src = os.dup(part.fd)
                folder = Folder(None, path, src, os.dup(dst), part.layer)
                several = {n: found for n, found in merged.items() if found[0] == part.layer}
                worker.copy_names(folder, some, several)

    def _settle(self, path: bytes, ownership: str) -> None:
        """Give the folder at ``path`` the metadata that it has in the stack."""
        from reflayer.walk.facts import Facts, FailedError, list_attributes, read_attributes
        from reflayer.walk.metadata import Metadata

        metadata = Metadata(ownership)
        try:
            with self._opened(path) as fd, self._before(path) as union:
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

    def _clear_flags(self, path: bytes) -> None:
        """Let a folder have no flags of chattr(1) but those that it was made with."""
        with self._opened(path) as fd:
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

    def _opened(self, path: bytes) -> AbstractContextManager[int]:
        """The folder at ``path``, of which no more is removed: it stays open for the next step."""
        fd = self._open.get(path)
        if fd is None:
            fd = open_beneath(self._top, path, cross_mounts=False)
            if len(self._open) >= _MOST_OPEN:
                return _closing(fd)
            self._open[path] = fd
        return nullcontext(fd)

    def _before(self, path: bytes) -> AbstractContextManager[Union]:
        """The folder at ``path`` in the stack; it stays open for the next step."""
        from reflayer.walk.stack import opened_in

        assert self._above is not None
        kept = self._kept.get(path)
        if kept is not None:
            return nullcontext(kept)
        opened = opened_in(self._above, path)
        if self._most_kept <= 0:
            return opened
        union = self._until.enter_context(opened)
        self._most_kept -= len(union.parts)
        self._kept[path] = union
        return nullcontext(union)


@contextmanager
def _closing(fd: int) -> Iterator[int]:
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
