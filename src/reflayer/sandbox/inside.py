"""Files of a container, found as the container finds them: its links lead nowhere out of its root.

The kernel sees to it (openat2(2), ``RESOLVE_IN_ROOT``). What is made here for a while, to mount on,
can be taken away again: then nothing is left of it, not even in the times of the folder it was in.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from reflayer.errors import SandboxError, printable
from reflayer.linux.openat2 import RESOLVE_IN_ROOT, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    Made = tuple[str, bool, int, int, int]
    """A path, whether it is a folder, the access and modification time of the folder that it is in
    from before, and the latter from after."""

_MOST = 16 << 20  # bytes of a file that is read
_LINKS = 40  # that are followed, as by the kernel
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def open_root(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def read(root: int, path: str) -> str:
    """The text of a regular file; empty where there is none, or it is too large to be one of users.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = _open(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (*_NOT_THERE, errno.ENXIO):
            return ""
        raise
    here = os.fstat(fd)
    if not stat.S_ISREG(here.st_mode) or here.st_size > _MOST:
        os.close(fd)
        return ""
    with open(fd, "rb") as file:
        return file.read(_MOST).decode("utf-8", "surrogateescape")


def status(root: int, path: str) -> os.stat_result | None:
    """What ``path`` leads to; None where that is nothing."""
    try:
        fd = _open(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def make_folder(root: int, path: str, made: list[Made], links: int = _LINKS) -> str:
    """Have a folder at ``path``, with all above it; return where in the root it really is.

    What was missing is appended to ``made``. It belongs to whoever makes it.

    Raises:
        SandboxError: something else is there.
        OSError: it cannot be made.
    """
    at = "."
    for name in path.split("/"):
        if name in ("", "."):
            continue
        above, at = at, f"{at}/{name}"
        here = status(root, at)
        if here is None and not _make(root, above, name, made, folder=True):
            here = status(root, at)  # another may have made it
            if here is None:
                _through_link(root, above, name, made, links)
                here = status(root, at)
        if here is not None and not stat.S_ISDIR(here.st_mode):
            raise SandboxError(f"{printable(path)}: {printable(at[1:])} is no folder")
    return _place(root, at)


def make_file(root: int, path: str, made: list[Made]) -> str:
    """Have something that a file can be mounted on at ``path``; otherwise as ``make_folder``."""
    folder, name = os.path.split(path)
    above = make_folder(root, folder, made)
    is_there = status(root, path) or _make(root, f".{above}", name, made, folder=False)
    if not is_there and status(root, path) is None:
        link = _link(root, f".{above}", name)
        return make_file(root, os.path.join(above, link), made)
    return _place(root, path)


def give(root: int, made: list[Made], uid: int, gid: int) -> None:
    """Let what was made belong to a user and group."""
    for path, *_ in made:
        fd = _open(root, path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.chown(fd, uid, gid)
        finally:
            os.close(fd)


def unmake(root: int, made: list[Made]) -> None:
    """Take away what was made, the last first, unless something has come into it meanwhile."""
    for path, is_folder, accessed, before, after in reversed(made):
        above, name = os.path.split(path)
        with suppress(OSError):
            fd = _open(root, above, os.O_RDONLY | os.O_DIRECTORY)
            try:
                here = os.fstat(fd)
                if is_folder:
                    os.rmdir(name, dir_fd=fd)
                else:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode) or found.st_size:
                        continue
                    os.unlink(name, dir_fd=fd)
                if here.st_mtime_ns == after:
                    os.utime(fd, ns=(accessed, before))
            finally:
                os.close(fd)


def _open(root: int, path: str, flags: int) -> int:
    return openat2(root, os.fsencode(path) or b".", flags, RESOLVE_IN_ROOT)


def _make(root: int, above: str, name: str, made: list[Made], *, folder: bool) -> bool:
    """Make what is missing; False where a link is there that leads nowhere."""
    fd = _open(root, above, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = os.fstat(fd)
        try:
            if folder:
                os.mkdir(name, 0o755, dir_fd=fd)
                flags = os.O_RDONLY | os.O_DIRECTORY
            else:
                flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL
            new = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd)
        except FileExistsError:
            return False
        os.fchmod(new, 0o755 if folder else 0o644)  # whatever the umask is
        os.close(new)
        times = before.st_atime_ns, before.st_mtime_ns, os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)
    made.append((f"{above}/{name}", folder, *times))
    return True


def _through_link(root: int, above: str, name: str, made: list[Made], links: int) -> None:
    if not links:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    link = _link(root, above, name)
    make_folder(root, link if link.startswith("/") else f"{above}/{link}", made, links - 1)


def _link(root: int, above: str, name: str) -> str:
    fd = _open(root, above, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.readlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def _place(root: int, path: str) -> str:
    fd = _open(root, path, os.O_PATH)
    try:
        top, found = (os.readlink(f"/proc/self/fd/{one}") for one in (root, fd))
    finally:
        os.close(fd)
    return found.removeprefix(top) or "/"
