"""A source tree as a pax archive: each folder, what is in it, and then its child folders."""

from __future__ import annotations

import io
import os
import stat
import tarfile

from reflayer.copy.content import SizeChangedError, data_extents
from reflayer.copy.entries import CHANGED, failure
from reflayer.copy.folder import OPEN_FILE, OPEN_FOLDER, Folder, identity, open_source
from reflayer.copy.metadata import FailedError, list_attributes_at, read_attribute
from reflayer.copy.mounts import is_mount_point, status_at_mount
from reflayer.copy.sparse_map import sparse_map
from reflayer.errors import CopyError
from reflayer.linux.xattrs import getxattr_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.job import Job

XATTR = "SCHILY.xattr."
"""What stands before an extended attribute's name in a pax record."""

_OPEN_LEVELS = 64  # folders whose descriptors stay open
_BUFFER = 1 << 20
_OCTAL_LIMIT = 8**11 - 1  # bytes; a larger size is a pax record, which hides the sparse file's own

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


class Packer:
    """Writes one tree's archive.

    Attributes:
        skipped: how many sockets, mounts and unreadable attributes were left out.
    """

    def __init__(self, job: Job, pipe: int) -> None:
        """Write to ``pipe``, which stays open."""
        self.skipped: dict[str, int] = {}
        self._job = job
        self._tar = tarfile.TarFile(
            fileobj=_Pipe(pipe),
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
            copybufsize=_BUFFER,
        )
        self._first: dict[tuple[int, int], str] = {}

    def pack(self, root: Folder) -> None:
        """Write the archive of ``root``.

        Raises:
            CopyError: something failed, or the source changed.
        """
        stack = [root]
        try:
            self._pack_folder(root)
            while stack:
                folder = stack[-1]
                if folder.children:
                    child = self._enter(folder, folder.children.pop())
                    stack.append(child)
                    if len(stack) > _OPEN_LEVELS:
                        stack[-_OPEN_LEVELS].shelve()
                    self._pack_folder(child)
                else:
                    self._leave(stack)
            self._tar.close()
        except OSError as error:
            raise CopyError.from_os_error(error, self._job.source, "pack") from error
        finally:
            for folder in stack:
                folder.close()

    def _enter(self, parent: Folder, name: bytes) -> Folder:
        job = self._job
        try:
            folder = Folder(parent, name, open_source(name, parent.src, OPEN_FOLDER), -1)
            is_border = folder.status.st_dev != parent.status.st_dev and is_mount_point(
                job, parent, name
            )
        except OSError as error:
            raise failure(job, parent, name, "open", error) from error
        if identity(folder.status) == job.root:
            folder.close()
            raise CopyError(folder.path(job), "copy", "the destination is inside the source")
        folder.is_border = is_border and not job.cross_mounts
        return folder

    def _leave(self, stack: list[Folder]) -> None:
        folder = stack.pop()
        try:
            if stack and stack[-1].src < 0:
                stack[-1].reopen(folder)
        except OSError as error:
            raise failure(self._job, folder, b"", "return to the parent", error) from error
        finally:
            folder.close()

    def _pack_folder(self, folder: Folder) -> None:
        job = self._job
        try:
            path = os.fsdecode(folder.relative()) or "."
            self._add(self._info(path, folder.status, folder.src, b"."))
            if folder.is_border:
                self._skip("mount")
                return
            with os.scandir(folder.src) as scan:
                for entry in scan:
                    name = os.fsencode(entry.name)
                    if (
                        name in job.mount_names
                        and not job.cross_mounts
                        and is_mount_point(job, folder, name)
                    ):
                        self._pack_mount(folder, name)
                    elif entry.is_dir(follow_symlinks=False):
                        folder.children.append(name)
                    else:
                        self._pack(folder, name)
        except FailedError as failed:
            raise failure(job, folder, b"", failed.operation, failed.cause) from failed
        except OSError as error:
            raise failure(job, folder, b"", "read the folder", error) from error

    def _pack_mount(self, folder: Folder, name: bytes) -> None:
        """Something empty for what is mounted, which is not opened."""
        self._skip("mount")
        status = status_at_mount(folder.src, name)
        kind = tarfile.DIRTYPE if stat.S_ISDIR(status.st_mode) else tarfile.REGTYPE
        self._add(_bare_info(os.fsdecode(folder.relative(name)), status, kind))

    def _pack(self, folder: Folder, name: bytes) -> None:
        job = self._job
        operation = "stat"
        try:
            status = os.stat(name, dir_fd=folder.src, follow_symlinks=False)
            path = os.fsdecode(folder.relative(name))
            if stat.S_ISSOCK(status.st_mode):
                self._skip("socket")
                return
            first = path
            if status.st_nlink > 1:
                first = self._first.setdefault(identity(status), path)
            if first != path:
                link = _bare_info(path, status, tarfile.LNKTYPE)
                link.linkname = first
                self._add(link)
                return
            if stat.S_ISDIR(status.st_mode):
                raise CHANGED
            operation = "pack"
            if stat.S_ISREG(status.st_mode):
                self._pack_file(folder, name, path)
            else:
                self._add(self._info(path, status, folder.src, name))
        except SizeChangedError as error:
            raise CopyError(folder.path(job, name), "pack", str(error)) from error
        except FailedError as failed:
            raise failure(job, folder, name, failed.operation, failed.cause) from failed
        except OSError as error:
            raise failure(job, folder, name, operation, error) from error

    def _pack_file(self, folder: Folder, name: bytes, path: str) -> None:
        try:
            fd = open_source(name, folder.src, OPEN_FILE)
        except OSError as error:
            raise failure(self._job, folder, name, "open", error) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise failure(self._job, folder, name, "open", CHANGED)
            if not status.st_size and os.pread(fd, 1, 0):  # proc(5): no size is told
                raise SizeChangedError
            info = self._info(path, status, folder.src, name)
            extents = list(data_extents(fd, status.st_size))
            table = b""
            if status.st_size and extents != [(0, status.st_size)]:
                table = sparse_map(extents, status.st_size)
                info.pax_headers = {
                    **info.pax_headers,
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": path,
                    "GNU.sparse.realsize": str(status.st_size),
                }
            info.size = len(table) + sum(end - start for start, end in extents)
            if table and info.size >= _OCTAL_LIMIT:
                reason = "tarfile does not read sparse files with 8 GiB of data or more"
                raise CopyError(folder.path(self._job, name), "pack", reason)
            self._add(info, _Data(table, fd, extents))
            if os.lseek(fd, 0, os.SEEK_END) != status.st_size:
                raise SizeChangedError
        finally:
            os.close(fd)

    def _info(self, path: str, status: os.stat_result, dir_fd: int, name: bytes) -> tarfile.TarInfo:
        """The header of ``path``, which is ``name`` in the open folder ``dir_fd``."""
        info = _bare_info(path, status, _TYPES[stat.S_IFMT(status.st_mode)])
        if info.issym():
            info.linkname = os.fsdecode(os.readlink(name, dir_fd=dir_fd))
        records = {}
        for attribute in list_attributes_at(dir_fd, name):
            value = read_attribute(attribute, lambda a: getxattr_at(dir_fd, name, a))
            if value is None:
                self._skip("xattr")
            else:
                key = XATTR + _escaped(attribute)
                records[key] = value.decode("utf-8", "surrogateescape")
        info.pax_headers = {**info.pax_headers, **records}
        return info

    def _add(self, info: tarfile.TarInfo, data: io.RawIOBase | None = None) -> None:
        self._tar.addfile(info, data)
        self._tar.members = []  # type: ignore[attr-defined]  # else it remembers them all

    def _skip(self, kind: str) -> None:
        self.skipped[kind] = self.skipped.get(kind, 0) + 1


def _bare_info(path: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    info.pax_headers = {
        "atime": _seconds(status.st_atime_ns),
        "mtime": _seconds(status.st_mtime_ns),
    }
    return info


def _seconds(nanoseconds: int) -> str:
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{fraction:09}"


def _escaped(attribute: str) -> str:
    """An attribute's name as a pax keyword: ``=`` would end it, so GNU tar writes it ``%3D``."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b"%=" else f"%{byte:02X}"
        for byte in os.fsencode(attribute)
    )


class _Data(io.RawIOBase):
    """A file's sparse map and then its extents, as one stream."""

    def __init__(self, table: bytes, fd: int, extents: list[tuple[int, int]]) -> None:
        self._table = table
        self._fd = fd
        self._extents = extents[::-1]

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes.

        Raises:
            SizeChangedError: the file ends before they do.
        """
        blocks = [self._table[:size]]
        self._table = self._table[size:]
        size -= len(blocks[0])
        while size and self._extents:
            start, end = self._extents.pop()
            block = os.pread(self._fd, min(size, end - start), start)
            if not block:
                raise SizeChangedError
            if start + len(block) < end:
                self._extents.append((start + len(block), end))
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)


class _Pipe(io.RawIOBase):
    """A pipe's end as ``tarfile`` wants it: all is written, and it knows where it stands."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._written = 0

    def write(self, block: bytes) -> int:  # type: ignore[override]
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        self._written += len(block)
        return len(block)

    def tell(self) -> int:
        return self._written
