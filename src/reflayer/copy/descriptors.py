"""Messages that carry open descriptors (unix(7): SCM_RIGHTS).

``socket.send_fds`` and ``recv_fds`` are not used: before Python 3.12 they drop their flags.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array

_SIZE = array("i").itemsize


def send(to: socket.socket, message: bytes, fds: list[int], flags: int = 0) -> None:
    """Send ``message`` and the descriptors ``fds``, which stay open here.

    Raises:
        OSError: as sendmsg(2) says; BlockingIOError with MSG_DONTWAIT where there is no room.
    """
    to.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))], flags)


def receive(source: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message of at most ``size`` bytes with at most ``most`` descriptors, close-on-exec.

    Raises:
        OSError: as recvmsg(2) says; BlockingIOError with MSG_DONTWAIT where there is none.
    """
    space = socket.CMSG_LEN(most * _SIZE)
    message, extras, got, _ = source.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, data in extras:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _SIZE])
    if got & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return message, list(fds)
