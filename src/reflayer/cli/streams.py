"""Standard input, output and error, where whoever started the program has shut one of them."""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Open what is shut, so that no file of ours gets its number and is written to by mistake.

    What is printed on a shut standard output fails as write(2) says (EBADF), since it would be
    lost; what goes to a shut standard error is dropped.
    """
    while (fd := os.open(os.devnull, os.O_WRONLY if _is_for_errors() else os.O_RDONLY)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _is_for_errors() -> bool:
    """Whether 2 is the lowest number that is free, which open(2) gives."""
    try:
        os.fstat(0)
        os.fstat(1)
    except OSError:
        return False
    return True
