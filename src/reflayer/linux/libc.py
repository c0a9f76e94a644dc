"""The C library, and those of its calls that ``os`` lacks: statx(2), syncfs(2)."""

from __future__ import annotations

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

_AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_TYPE, _STATX_INO, _STATX_BTIME, _STATX_MNT_ID = 0x1, 0x100, 0x800, 0x1000
_SYNC_FILE_RANGE_WRITE = 2
_Statx = ctypes.c_char * 256  # struct statx
_STATX_MASK = struct.Struct("=I")
_IDENTITY = struct.Struct("=28xH2xQ96xIIQ")  # mode, inode number, device, mount
_BTIME = struct.Struct("=80xqI")  # seconds, nanoseconds


def checked(result: int) -> int:
    """Return ``result`` of a C call that reports failure as -1.

    Raises:
        OSError: with the thread's errno (errno(3)) when ``result`` is -1.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def birth_time(fd: int) -> int | None:
    """When the open file ``fd`` was made, in nanoseconds since the epoch; None where not kept."""
    buffer = _Statx()
    checked(
        LIBC.statx(
            ctypes.c_int(fd),
            ctypes.c_char_p(b""),
            ctypes.c_int(_AT_EMPTY_PATH),
            ctypes.c_uint(_STATX_BTIME),
            buffer,
        )
    )
    if not _STATX_MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(buffer)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def identity_at(path: bytes, dir_fd: int = AT_FDCWD) -> tuple[int, int, int, int]:
    """Device, inode number, mode and mount of what ``path`` leads to; no server is asked for them.

    The mount is a number of the kernel's; before Linux 5.8 it is 0.

    Raises:
        OSError: as statx(2) says.
    """
    buffer = _Statx()
    wanted = _STATX_TYPE | _STATX_INO | _STATX_MNT_ID
    checked(LIBC.statx(dir_fd, path, _AT_STATX_DONT_SYNC, wanted, buffer))
    mode, inode, major, minor, mount = _IDENTITY.unpack_from(buffer)
    return os.makedev(major, minor), int(inode), int(mode), int(mount)


def begin_to_write_out(fd: int) -> None:
    """Begin to write out what the open file ``fd`` has; not its metadata (sync_file_range(2)).

    Raises:
        OSError: as that says.
    """
    size, at = ctypes.c_int64(0), ctypes.c_int64(0)
    checked(LIBC.sync_file_range(ctypes.c_int(fd), at, size, _SYNC_FILE_RANGE_WRITE))


def syncfs(fd: int) -> None:
    """Write out the file system that ``fd`` is on and wait for it.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT when a page could not be written (Linux 5.8 and later
            report it; earlier kernels stay silent), as syncfs(2) says.
    """
    checked(LIBC.syncfs(ctypes.c_int(fd)))
