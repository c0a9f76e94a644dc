"""A command gets a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import struct
import termios
import time
from fcntl import ioctl
from pathlib import Path

from tests.sandbox.images import command, lines, nothing_runs, reflayer

_PATIENCE = 120.0  # seconds


def _until(fd: int, text: bytes) -> bytes:
    """What is printed until it has ``text``."""
    printed, end = b"", time.monotonic() + _PATIENCE
    while text not in printed:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], printed
        printed += os.read(fd, 65536)
    return printed


def test_a_shell_in_a_terminal(runtime: str, source: str, root: Path) -> None:
    pid, fd = pty.fork()
    if not pid:
        words = command(root, "run", "--rm", "-it", "--runtime", runtime, source, "sh")
        os.execvp(words[0], words)
    _until(fd, b"# ")
    ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    os.write(fd, b"until [ \"$(busybox stty size)\" = '33 99' ]; do :; done; echo as' 'large\n")
    _until(fd, b"as large")
    os.write(fd, b"test -t 0 && test -t 1 && echo term=$TERM\n")
    _until(fd, b"term=xterm")
    os.write(fd, b"sh -c 'echo runs$((1)); exec sleep 1000'\n")
    _until(fd, b"runs1")  # not before: the shell would have it for its next line
    os.write(fd, b"\x03")
    _until(fd, b"# ")
    os.write(fd, b"exit 6\n")
    while True:
        try:
            if not os.read(fd, 65536):
                break
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    assert nothing_runs(root)


def test_a_terminal_where_there_is_none(runtime: str, source: str, root: Path) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && echo all"
    words = ("run", "--rm", "-t", "--runtime", runtime, source, "sh", "-c", script)
    assert lines(reflayer(root, *words)) == ["all"]


def test_what_is_piped_to_a_terminal_has_an_end(runtime: str, source: str, root: Path) -> None:
    words = ("run", "--rm", "-it", "--runtime", runtime, source, "cat")
    assert lines(reflayer(root, *words, typed="typed\n")) == ["typed", "typed"]
