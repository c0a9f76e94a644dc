"""Connections passed on from a socket that we listen on to one that a library made itself.

gRPC's server for Python takes no socket that is listening already, so neither systemd's nor one
with our mode.
"""

from __future__ import annotations

import socket


class Relay:
    """Accepts at one socket and joins each connection to a new one to another.

    A library's own socket: in a folder of mode 0700, say ``tempfile.mkdtemp()``.
    """

    def __init__(self, listening: socket.socket, path: str) -> None:
        """From ``listening`` to the Unix socket at ``path``."""
        self._listening = listening
        self._path = path

    async def start(self) -> None:
        """Begin to accept."""
        raise NotImplementedError

    async def stop_accepting(self) -> None:
        """Accept nothing more; what is connected stays so."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let what was written reach the clients, and close all connections."""
        raise NotImplementedError
