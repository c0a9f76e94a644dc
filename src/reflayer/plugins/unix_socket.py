"""The Unix sockets that services listen on: root's alone, made here or passed by systemd."""

from __future__ import annotations

import functools
import os
import socket
import stat
from contextlib import contextmanager, suppress

from reflayer.errors import ServiceError, failing, printable
from reflayer.workers.lock import flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG = 4096
"""Connections that wait to be accepted; a client of Go's does not wait where they are more."""

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START
_LONGEST = 107  # bytes of a path in sockaddr_un, unix(7)

_used: set[str] = set()


def listen(path: str) -> socket.socket:
    """A socket that listens at ``path``: systemd's where it has passed it, else a new one.

    To close systemd's leaves it open there, which keeps new connections for the next start. A new
    one has mode 0600, replaces what a process left there when it died, and is unlinked when it is
    closed. The folder it is in is made with mode 0700 where it is absent.

    Raises:
        ServiceError: another process listens there, something else is there, others may write in
            the folder, or we may not.
    """
    place = _place(path)
    passed = passed_by_systemd().get(place)
    if passed is not None:
        _used.add(place)
        return passed
    if len(os.fsencode(path)) > _LONGEST:
        raise ServiceError(f"{printable(path)}: a socket's path has {_LONGEST} bytes at the most")
    folder = os.path.dirname(os.path.abspath(path))
    with failing(path, "listen"):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with _locked(folder):
                _make_way(path)
                return _Listening(path)
        except PermissionError as error:
            reason = "this needs root, or a socket elsewhere (--docker-socket, --containerd-socket)"
            raise ServiceError(f"{printable(path)}: permission denied: {reason}") from error


def unused() -> list[str]:
    """The paths of the sockets that systemd passed and no service listens at."""
    return sorted(passed_by_systemd().keys() - _used)


@functools.cache
def passed_by_systemd() -> dict[str, socket.socket]:
    """All Unix sockets that systemd passed, by path (sd_listen_fds(3)).

    To be called before any other process is started, which would inherit them.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    sockets = {}
    for fd in range(_FIRST_PASSED, _FIRST_PASSED + int(os.environ.get("LISTEN_FDS", "0"))):
        os.set_inheritable(fd, False)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        one = socket.socket(fileno=fd)
        if (
            one.family == socket.AF_UNIX
            and one.type == socket.SOCK_STREAM
            and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            sockets[_place(one.getsockname())] = one
        else:
            one.detach()  # none of ours, and not ours to close
    return sockets


class _Listening(socket.socket):
    """A socket that is unlinked when it is closed, unless another has taken its place."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self.fileno(), 0o600)  # what bind gives to the name, whatever the umask is
            self.bind(path)
            self.path = os.path.abspath(path)
            self.identity = _identity(self.path)
            self.listen(BACKLOG)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        if self.fileno() >= 0:
            with suppress(FileNotFoundError), _locked(os.path.dirname(self.path)):
                if _identity(self.path) == self.identity:
                    os.unlink(self.path)
        super().close()


def _make_way(path: str) -> None:
    """Unlink what a process that died left at ``path``; refuse where something else is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ServiceError(f"{printable(path)}: something that is no socket is there: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue of connections is full
    raise ServiceError(
        f"{printable(path)}: another process listens there: stop it, or give another socket"
    )


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Let no other process of ours make or unlink a socket in ``folder`` meanwhile.

    It is refused where a user other than root and ours may put another socket in its place.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if (is_shared and not status.st_mode & stat.S_ISVTX) or status.st_uid not in (
            0,
            os.geteuid(),
        ):
            raise ServiceError(
                f"{printable(folder)}: others may write in it, and so put their socket in place of "
                "ours: let root alone write there"
            )
        flock(fd)
        yield
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _place(path: str) -> str:
    """``path`` with the folders' symbolic links followed: /var/run is /run."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)
