"""The helper process: it measures one tree after the other that its caller names.

Standard input is its caller's socket. It ends with its caller, a moment after it at the latest.
"""

from __future__ import annotations

import marshal
import signal
import socket
import time
from typing import TYPE_CHECKING

from reflayer.errors import OperationError
from reflayer.extents.messages import receive, send
from reflayer.extents.tree import measure_tree

if TYPE_CHECKING:
    from typing import Any

_TELL = 0.1  # seconds between two words of progress


def main() -> None:
    """Serve until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the caller decides
    caller = socket.socket(fileno=0)
    try:
        while True:
            send(caller, marshal.dumps(_measured(caller, receive(caller))))
    except ConnectionError:
        return  # the caller is gone


def _measured(caller: socket.socket, path: bytes) -> tuple[Any, ...]:
    """The last message about the tree at ``path``, after those of how far it is."""
    seen = 0
    told = time.monotonic()

    def progress(entries: int) -> None:
        nonlocal seen, told
        seen += entries
        if time.monotonic() - told > _TELL:
            send(caller, marshal.dumps(seen))
            seen, told = 0, time.monotonic()

    try:
        usage = measure_tree(path, progress=progress)
    except OperationError as error:
        return ("error", error.path, error.operation, error.reason, error.errno)
    send(caller, marshal.dumps(seen))
    return (
        "usage",
        usage.inodes,
        usage.size,
        usage.allocated,
        usage.own,
        usage.untold,
        usage.shared.tobytes(),
        usage.encoded.tobytes(),
        usage.unread,
    )
