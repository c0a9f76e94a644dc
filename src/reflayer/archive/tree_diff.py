"""What changed in a tree since it was cloned: both are walked once, side by side.

The tree before may be a stack. A folder that one layer of it has is walked like one of a tree, and
a folder that several have as their union.

Folders come before what is in them and names in the order of their bytes. Everything goes by
descriptor; no link is followed, and what is mounted inside stays out. No more is remembered than
the names in the folders on the way, those that ``untouched`` found to be touched, and the inodes
with several names.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from reflayer.archive.compare import (
    FolderPair,
    attributes_in_tree,
    is_same_entry,
    is_same_inode,
    is_same_status,
)
from reflayer.archive.hardlinks import HardLinks, hidden_names
from reflayer.errors import OperationError, failing
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import (
    OPEN_ANY_FOLDER,
    OPEN_FOLDER,
    FolderStack,
    identity,
    open_noatime,
)
from reflayer.walk.mounts import is_mounted, mounts_below, status_at_mount
from reflayer.walk.stack import Part, Union, stack_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from reflayer.archive.untouched import Touched
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.stack import AnyStack, Stack

ADDED, MODIFIED, DELETED = "A", "C", "D"
"""The kinds of changes, as Docker's diff prints them."""

RELINKED = "="
"""The same as before, but a layer has to have it: for another name of its inode, or inside it."""

_BEHIND = 20_000_000  # nanoseconds that the clock of inodes may be behind (driver.clone_times)


class Difference(NamedTuple):
    """One difference."""

    kind: str
    folder: FolderPair  # where it is, or the folder that it is; open until the next is asked for
    name: bytes  # its name there; empty for the folder itself
    status: os.stat_result  # of what is there now; of what was there where it is deleted
    target: bytes = b""  # a path that is a name of the same inode
    replaces: bool = False  # something was there before
    is_mount: bool = False  # something is mounted there: what is beneath is not known


class TreeDiff:
    """One walk over a tree and, if there is one, the tree that it was cloned from.

    Attributes:
        is_whole: what is walked over is a tree; all that a difference has is a change.
    """

    is_whole = True
    _lstat: Callable[..., os.stat_result] = staticmethod(os.lstat)

    def __init__(
        self,
        root: AnyPath,
        parent: AnyStack | None = None,
        cloned: float | None = None,
        *,
        cross_mounts: bool = False,
    ) -> None:
        """Walk over ``root``; with ``cross_mounts`` what is mounted in it is a part of it.

        The rest is as ``changes`` has it.
        """
        self._root_path = os.fsencode(root)
        self._parent = None if parent is None else stack_of(parent)
        self._hard_links = HardLinks()
        self._hidden: Counter[tuple[int, int]] | None = None
        layers = 1 if self._parent is None else len(self._parent.paths)
        self._stack = FolderStack[FolderPair](layers)  # a folder may be open in each
        self._cloned = cloned
        self._since = self._until = 0
        self._touched: Touched | None = None
        self._cross_mounts = cross_mounts
        self._mounts: frozenset[bytes] = frozenset()

    def __iter__(self) -> Iterator[Difference]:
        with self._stack:
            self._enter_root()
            while self._stack:
                yield from self._walk_folder(self._stack[-1])

    def _enter_root(self) -> None:
        with failing(self._root_path, "open"):
            new = open_noatime(self._root_path, None, OPEN_ANY_FOLDER)
        old = None
        try:
            if self._parent is not None:
                old = self._open(self._parent)
            with failing(self._root_path, "look at"):
                before = None
                if old is not None:
                    before = old.parts[0].status(os.fstat(old.parts[0].fd))
                root = FolderPair(None, b"", new, old, os.fstat(new), before)
                self._learn(new, old)
        except BaseException:
            os.close(new)
            if old is not None:
                old.close()
            raise
        root.is_added = old is None
        root.is_settled = True  # a root cannot be moved away from its names
        self._stack.push(root)
        self._read(root)

    def _open(self, parent: Stack) -> Union:
        try:
            return Union.root(parent)
        except OSError as error:
            path = os.fsencode(error.filename or self._root_path)
            raise OperationError.from_os_error(error, path, "open") from error

    def _learn(self, new: int, old: Union | None) -> None:
        """Learn where something is mounted in the root, and what was touched since the cloning."""
        if not self._cross_mounts:
            (self._mounts,) = mounts_below(new)
        if self._cloned is not None:
            from reflayer.linux.libc import birth_time  # it brings ctypes

            self._since = birth_time(new) or 0
            self._until = int(self._cloned * 1e9) - _BEHIND if self._since else 0
        if old is not None and self._until > 0:
            from reflayer.archive.untouched import touched_names

            self._touched = touched_names(new, old, self._since, self._until)

    def _walk_folder(self, pair: FolderPair) -> Iterator[Difference]:
        """Go on with ``pair`` until a folder in it is entered, or to its end."""
        todo = pair.todo
        if pair.told is None:
            pair.told = ""
            if self._is_changed(pair):
                yield from _tell(pair, ADDED if pair.is_added else MODIFIED)
            elif pair.parent is None:  # no other layer has a root's entry for what is in it
                pair.is_implied = True
        new, old, fresh, gone = pair.fd, pair.old, pair.fresh, pair.gone
        plain = old.parts[0] if old is not None and old.is_plain else None
        lstat = self._lstat
        while todo:
            name = todo.pop()
            if name in gone:
                yield from self._tell_gone(pair, name)
                continue
            is_mount = bool(self._mounts) and pair.path(name) in self._mounts
            try:
                is_mount = is_mount and is_mounted(new, name) is not False
                status = status_at_mount(new, name) if is_mount else lstat(name, dir_fd=new)
                if status.st_dev != pair.status.st_dev and not self._cross_mounts:
                    is_mount = is_mount or bool(is_mounted(new, name))  # or a subvolume of btrfs
                if name in fresh:
                    part = before = None
                elif plain is not None:
                    part, before = plain, plain.status(os.lstat(name, dir_fd=plain.fd))
                else:
                    part, before = self._before(pair, name)
            except (FailedError, OSError) as error:
                raise self.failure(error, pair, name, "stat") from error
            if is_mount:
                if before is None:
                    yield from _tell(pair, MODIFIED)
                    yield Difference(ADDED, pair, name, status, is_mount=True)
            elif stat.S_ISDIR(status.st_mode):
                self._enter(pair, name, status, before)
                return
            else:
                kind, target = self._compare(pair, name, status, before, part)
                if kind:
                    yield from _tell(pair, RELINKED if kind == RELINKED else MODIFIED)
                    yield Difference(kind, pair, name, status, target, before is not None)
        self._leave()

    def _tell_gone(self, pair: FolderPair, name: bytes) -> Iterator[Difference]:
        try:
            _, before = self._before(pair, name)
        except (FailedError, OSError) as error:
            raise self.failure(error, pair, name, "stat") from error
        yield from _tell(pair, MODIFIED)
        yield Difference(DELETED, pair, name, before)

    def _before(self, pair: FolderPair, name: bytes) -> tuple[Part, os.stat_result]:
        """Where ``name`` was before, and its status in that tree."""
        found = None if pair.old is None else pair.old.find(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found

    def _compare(
        self,
        pair: FolderPair,
        name: bytes,
        status: os.stat_result,
        before: os.stat_result | None,
        part: Part | None,
    ) -> tuple[str, bytes]:
        """The kind of difference of ``name``, empty for none, and a path that it is a link to."""
        same, hidden = None, 0
        if (
            before is not None
            and part is not None
            and self.is_whole
            and is_same_status(status, before)
        ):
            try:
                if self._is_untouched(pair, status, before, part):
                    same = before
                elif is_same_entry(name, pair.fd, part, status, before):
                    same, hidden = before, self._hidden_names(status, before, part)
            except (FailedError, OSError) as error:
                raise self.failure(error, pair, name, "compare") from error
        kind = ADDED if before is None else MODIFIED
        if status.st_nlink == 1 and (before is None or before.st_nlink == 1):
            return (kind if same is None else ""), b""
        is_written, target = self._hard_links.place(pair.path(name), status, same, hidden)
        if same is not None:
            kind = RELINKED if is_written else ""
        return kind, target

    def _hidden_names(self, status: os.stat_result, before: os.stat_result, part: Part) -> int:
        """How many names of an inode before are hidden in the stack, if that decides anything.

        The clone of an inode has a name for each that is not hidden, as long as it is untouched.
        """
        root = self._stack[0].old
        if not part.layer or root is None or not before.st_nlink >= status.st_nlink > 1:
            return 0
        if self._hidden is None:
            self._hidden = hidden_names(root)
        return self._hidden[identity(before)]

    def _is_untouched(
        self, pair: FolderPair, status: os.stat_result, before: os.stat_result, part: Part
    ) -> bool:
        """Whether an entry needs no look inside: its inode was last changed by the cloning.

        A folder that was moved takes what is in it elsewhere without a trace on that, so the
        folders above count, too.
        """
        is_settled = pair.is_settled and self._is_settled(status, before)
        return is_settled or (part.is_whole and is_same_inode(status, before))

    def _is_settled(self, status: os.stat_result, before: os.stat_result) -> bool:
        """Whether an inode was last changed by the cloning, and the one before before it.

        Whatever happens to an inode sets its ctime to the kernel's clock (inode(7)), which would
        have to go back to the very moments of the cloning to deceive us.
        """
        return before.st_ctime_ns < self._since <= status.st_ctime_ns < self._until

    def _is_changed(self, pair: FolderPair) -> bool:
        if pair.is_untouched:
            return False
        if pair.old is None or pair.before is None:
            return True
        if not is_same_status(pair.status, pair.before):
            return True
        before = pair.old.parts[0]
        try:
            now = Part(pair.fd, self.is_whole, 0)
            return attributes_in_tree(pair.fd, now) != attributes_in_tree(before.fd, before)
        except (FailedError, OSError) as error:
            raise self.failure(error, pair, b"", "compare") from error

    def _enter(
        self, above: FolderPair, name: bytes, status: os.stat_result, before: os.stat_result | None
    ) -> None:
        new = -1
        old = None
        try:
            new = open_noatime(name, above.fd, OPEN_FOLDER)
            if before is not None and stat.S_ISDIR(before.st_mode) and above.old is not None:
                old = above.old.enter(name)
        except OSError as error:
            if new >= 0:
                os.close(new)
            raise self.failure(error, above, name, "open") from error
        pair = FolderPair(above, name, new, old, status, None if old is None else before)
        pair.is_added = before is None
        if before is not None:
            pair.is_settled = above.is_settled and self._is_settled(status, before)
            if old is not None and is_same_status(status, before):
                pair.is_untouched = pair.is_settled or (
                    old.is_plain and is_same_inode(status, before)
                )
        self._stack.push(pair)
        self._read(pair)

    def _read(self, pair: FolderPair) -> None:
        """Note what is to be looked at in ``pair``: all, or what is known to be touched."""
        names = self._touched.pop(pair.path(), None) if self._touched else None
        try:
            if names is None or not pair.is_untouched:  # a new or lost name is a touch
                self._read_names(pair)
        except OSError as error:
            raise self.failure(error, pair, b"", "read the folder") from error
        if names is not None:
            pair.todo = sorted(pair.gone | pair.fresh | names, reverse=True)

    def _read_names(self, pair: FolderPair) -> None:
        pair.read(has_same_names=pair.is_untouched)

    def _leave(self) -> None:
        pair = self._stack[-1]
        try:
            self._stack.reopen_parent()
        except OSError as error:
            raise self.failure(error, pair, b"", "return to the parent") from error
        self._stack.pop().close()

    def path(self, folder: FolderPair, name: bytes) -> bytes:
        """The path of ``name`` in ``folder``, or of the folder, as the user knows it."""
        return os.path.join(self._root_path, folder.path(name)).rstrip(b"/") or b"/"

    def failure(
        self, error: FailedError | OSError, folder: FolderPair, name: bytes, operation: str
    ) -> OperationError:
        """The error of a failed call, ``operation`` where that does not tell what it was."""
        if isinstance(error, FailedError):
            operation, error = error.operation, error.cause
        return OperationError.from_os_error(error, self.path(folder, name), operation)


def _tell(pair: FolderPair, kind: str) -> Iterator[Difference]:
    """Tell of a folder, and first of those above it, as far as that is not done."""
    untold = []
    folder: FolderPair | None = pair
    while folder is not None and (not folder.told or folder.told == RELINKED != kind):
        untold.append(folder)
        folder = folder.parent
    for folder in reversed(untold):
        folder.told = kind if folder is pair or kind == RELINKED else MODIFIED
        yield Difference(folder.told, folder, b"", folder.status)
