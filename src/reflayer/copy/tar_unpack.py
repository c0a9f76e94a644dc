"""A tree from the archive that the packer writes: by descriptor, folder metadata last."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from typing import cast

from reflayer.copy.folder import OPEN_FOLDER, identity, open_above
from reflayer.copy.metadata import FailedError, Metadata
from reflayer.copy.tar_pack import XATTR
from reflayer.errors import CopyError, printable
from reflayer.linux.xattrs import setxattr_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.birth import Birth
    from reflayer.copy.job import Job

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LEVELS = 64  # folders whose descriptors stay open
_BUFFER = 1 << 20
_TELL = 0.1  # seconds between two calls of a progress callback

_SPECIAL = {
    tarfile.FIFOTYPE: (stat.S_IFIFO, "fifo"),
    tarfile.CHRTYPE: (stat.S_IFCHR, "char"),
    tarfile.BLKTYPE: (stat.S_IFBLK, "block"),
}


class Unpacker:
    """Makes a tree from its archive, whose folders come before what is in them.

    Attributes:
        made: names made, by type.
        moved: bytes of content, holes not counted.
        metadata: has what was left out.
    """

    def __init__(
        self, job: Job, birth: Birth, root: int, progress: Callable[[int, int], None] | None
    ) -> None:
        """Take over ``root``, the open and empty folder of the copy."""
        self.made = {"file": 0, "directory": 0}
        self.moved = 0
        self.metadata = Metadata(birth, job.ignore_refused)
        self._job = job
        self._birth = birth
        self._root = root
        self._progress = progress
        self._told = time.monotonic()
        self._stack: list[_Level] = []
        self._left_out: set[str] = set()

    def count(self) -> tuple[int, int]:
        """Entries and bytes so far."""
        return sum(self.made.values()), self.moved

    def unpack(self, pipe: int) -> None:
        """Make all that the archive in ``pipe`` holds.

        Raises:
            CopyError: a call failed.
            tarfile.ReadError: the archive ends too early.
        """
        with open(pipe, "rb", buffering=0, closefd=False) as archive:
            tar = tarfile.open(  # noqa: SIM115
                fileobj=archive,
                mode="r|",
                bufsize=_BUFFER,
                encoding="utf-8",
                errors="surrogateescape",
            )
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it remembers them all
                try:
                    self._make(info, tar.fileobj)
                except FailedError as failed:
                    raise self._failure(info, failed.operation, failed.cause) from failed
                except OSError as error:
                    raise self._failure(info, "unpack", error) from error
                self._tell()
            while archive.read(_BUFFER):  # what fills the last record
                pass
        while self._stack:
            self._leave()

    def close(self) -> None:
        """Shut all descriptors."""
        for level in self._stack:
            level.shelve()
        os.close(self._root)

    def _tell(self) -> None:
        if self._progress is not None and time.monotonic() - self._told > _TELL:
            self._told = time.monotonic()
            self._progress(*self.count())

    def _make(self, info: tarfile.TarInfo, archive: tarfile._Fileobj) -> None:
        parent, _, name = info.name.rpartition("/")
        if info.name == ".":
            self._stack.append(_Level("", info, os.dup(self._root)))
            self.made["directory"] += 1
            return
        while self._stack[-1].path != parent:
            self._leave()
        folder = self._stack[-1].fd
        mode = self.metadata.creation_mode(info.mode, _attributes(info))
        if info.isdir():
            os.mkdir(name, 0o700, dir_fd=folder)
            self._enter(info, name, folder)
            self._count("directory")
            return
        if info.islnk():
            self._link(info, name, folder)
            return
        if info.isreg():
            fd = os.open(name, _NEW_FILE, mode, dir_fd=folder)
            try:
                self._fill(fd, info, archive)
            finally:
                os.close(fd)
            self._count("file")
        elif info.issym():
            os.symlink(info.linkname, name, dir_fd=folder)
            self._count("symlink")
        else:
            file_type, kind = _SPECIAL[info.type]
            device = os.makedev(info.devmajor, info.devminor)
            try:
                os.mknod(name, file_type | mode, device, dir_fd=folder)
            except PermissionError as error:
                if kind == "fifo":
                    raise
                if not self.metadata.refused("device", error):
                    raise FailedError("mknod", error) from error
                self._left_out.add(info.name)
                return
            self._count(kind)
        self._finish(folder, name, info)

    def _count(self, kind: str) -> None:
        self.made[kind] = self.made.get(kind, 0) + 1

    def _fill(self, fd: int, info: tarfile.TarInfo, archive: tarfile._Fileobj) -> None:
        # What tarfile makes of GNU.sparse records: offset and size of each part with data.
        parts = cast("list[tuple[int, int]] | None", info.sparse)
        if parts is not None:
            os.ftruncate(fd, info.size)
        for offset, size in [(0, info.size)] if parts is None else parts:
            end = offset + size
            self.moved += size
            while offset < end:
                block = archive.read(min(end - offset, _BUFFER))
                if not block:
                    raise tarfile.ReadError("unexpected end of data")
                view = memoryview(block)
                while view:
                    written = os.pwrite(fd, view, offset)
                    view = view[written:]
                    offset += written

    def _link(self, info: tarfile.TarInfo, name: str, folder: int) -> None:
        if info.linkname in self._left_out:
            self.metadata.skip("device")
            return
        *folders, first = info.linkname.split("/")
        at = os.dup(self._root)
        try:
            for part in folders:  # one by one: the path may be longer than PATH_MAX
                above, at = at, os.open(part, OPEN_FOLDER, dir_fd=at)
                os.close(above)
            os.link(first, name, src_dir_fd=at, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(at)
        self._count("hardlink")

    def _enter(self, info: tarfile.TarInfo, name: str, parent: int) -> None:
        self._stack.append(_Level(info.name, info, os.open(name, OPEN_FOLDER, dir_fd=parent)))
        if len(self._stack) > _OPEN_LEVELS:
            self._stack[-_OPEN_LEVELS].shelve()

    def _leave(self) -> None:
        """Close the innermost folder, all in which is made, and set its metadata."""
        level = self._stack.pop()
        try:
            if self._stack and self._stack[-1].fd < 0:
                self._stack[-1].fd = open_above(level.fd, self._stack[-1].identity)
            if self._stack:
                self._finish(self._stack[-1].fd, level.path.rpartition("/")[2], level.info)
            else:
                self._finish(level.fd, ".", level.info)
        except FailedError as failed:
            raise self._failure(level.info, failed.operation, failed.cause) from failed
        except OSError as error:
            raise self._failure(level.info, "set its times", error) from error
        finally:
            level.shelve()

    def _finish(self, folder: int, name: str, info: tarfile.TarInfo) -> None:
        """Set all of ``name`` in ``folder`` in the order that keeps it (see ``metadata``)."""
        metadata = self.metadata
        if (info.uid, info.gid) != (self._birth.uid, self._birth.gid):
            try:
                os.chown(name, info.uid, info.gid, dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if not metadata.refused("owner", error):
                    raise FailedError("chown", error) from error
        for attribute in _attributes(info):
            value = info.pax_headers[XATTR + attribute].encode("utf-8", "surrogateescape")
            attribute = _unescaped(attribute)
            try:
                setxattr_at(folder, os.fsencode(name), attribute, value)
            except OSError as error:
                if not metadata.refused_attribute(attribute, error):
                    raise FailedError(f"setxattr {printable(attribute)}", error) from error
        if not info.issym():
            metadata.chmod_at(folder, os.fsencode(name), info.mode)
        times = (_nanoseconds(info, "atime"), _nanoseconds(info, "mtime"))
        os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)

    def _failure(self, info: tarfile.TarInfo, operation: str, error: OSError) -> CopyError:
        name = b"" if info.name == "." else os.fsencode(info.name)
        path = os.path.join(self._job.source, name).rstrip(b"/") or b"/"
        return CopyError.from_os_error(error, path, operation)


class _Level:
    """A folder that is being filled: its path in the archive, metadata and descriptor."""

    __slots__ = ("fd", "identity", "info", "path")

    def __init__(self, path: str, info: tarfile.TarInfo, fd: int) -> None:
        self.path = path
        self.info = info
        self.fd = fd
        self.identity = identity(os.fstat(fd))

    def shelve(self) -> None:
        """Shut the descriptor; the folder is found again from one in it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _attributes(info: tarfile.TarInfo) -> list[str]:
    return [key[len(XATTR) :] for key in info.pax_headers if key.startswith(XATTR)]


def _unescaped(attribute: str) -> str:
    first, *rest = attribute.split("%")
    return os.fsdecode(
        first.encode() + b"".join(bytes([int(p[:2], 16)]) + p[2:].encode() for p in rest)
    )


def _nanoseconds(info: tarfile.TarInfo, key: str) -> int:
    seconds, _, fraction = info.pax_headers[key].partition(".")
    value = int(seconds.lstrip("-")) * 1_000_000_000 + int(fraction)
    return -value if seconds.startswith("-") else value
