"""Word to the service manager that started us (sd_notify(3)), where one did."""

from __future__ import annotations

import os
import socket

from reflayer.errors import OperationError


def notify(*lines: str) -> None:
    """Send ``lines``, such as ``READY=1``, to ``NOTIFY_SOCKET``; nothing without one.

    Raises:
        OperationError: the socket that is named there takes no messages.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # The abstract ones begin with a zero byte, which cannot be in a variable.
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(address)
            sender.send("\n".join(lines).encode())
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(path), "notify") from error
