"""Messages of any length over a stream socket: eight bytes of length, then the bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_LENGTH = struct.Struct("=Q")


def send(to: socket.socket, message: bytes) -> None:
    """Send it whole.

    Raises:
        OSError: as send(2) says; BrokenPipeError where nobody is at the other end.
    """
    to.sendall(_LENGTH.pack(len(message)))
    to.sendall(message)


def receive(source: socket.socket) -> bytes:
    """The next one, waited for to its end.

    Raises:
        OSError: as recv(2) says; ConnectionResetError where nobody is at the other end any more.
    """
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    return bytes(_exactly(source, length))


def _exactly(source: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    room = memoryview(data)
    while room:
        got = source.recv_into(room)
        if not got:
            raise ConnectionResetError("the other end is closed")
        room = room[got:]
    return data
