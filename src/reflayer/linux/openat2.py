"""openat2(2): open a path that the kernel keeps beneath a folder."""

from __future__ import annotations

import errno
import os

from reflayer.linux.names import native

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437  # the same number on every architecture (asm-generic/unistd.h)
_RETRIES = 128


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` from ``dir_fd`` under the ``RESOLVE_*`` rules, close-on-exec.

    ``path`` is at most PATH_MAX - 1 (4,095) bytes. EAGAIN, the kernel's answer when a rename
    anywhere raced with a ``..``, is tried again.

    Raises:
        OSError: EXDEV when the path would leave ``dir_fd``, ELOOP when it meets a symbolic link
            that ``resolve`` forbids, ENOSYS before Linux 5.6 and
            without ctypes; otherwise as openat2(2) says.
    """
    open_beneath = _in_python if native is None else native.openat2
    for _ in range(_RETRIES):
        try:
            return int(open_beneath(dir_fd, path, flags | os.O_CLOEXEC, mode, resolve))
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _in_python(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    try:
        import ctypes  # it costs start-up time

        from reflayer.linux.libc import LIBC, checked
    except ImportError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None

    how = (ctypes.c_uint64 * 3)(flags, mode, resolve)  # linux/openat2.h: struct open_how
    return checked(
        LIBC.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
    )
