"""The commands: the only place that prints or exits."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from reflayer.errors import ReflayerError

_GARBAGE = (
    20_000  # objects, more than an import makes: looking at those takes a twentieth of a command
)


def main() -> NoReturn:
    """The program ``reflayer``.

    Exits 0, 1 (failed: one line says why), 2 (wrong usage) or, undone by a signal, 128 and its
    number.
    """
    if sys.getfilesystemencoding() != "utf-8":
        _start_in_utf8_mode()
    gc.set_threshold(_GARBAGE)
    from reflayer.cli.interrupt import Interrupted, catch_signals, ignore_signals

    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_streams()
    catch_signals()
    try:
        status = _run()
        ignore_signals()
    except Interrupted as interrupted:
        _complain_with("interrupted", interrupted)
        status = interrupted.status
    # All is written and shut: to take the interpreter apart would take longer than many a command.
    os._exit(status)


def _start_in_utf8_mode() -> None:
    """Become the same program with names by UTF-8, whatever the locale's codec is (PEP 540).

    A name is bytes. Python keeps it in a str, and by UTF-8 alone each comes out as it went in
    (PEP 383): Big5 has some characters twice. The arguments are read anew for the same reason.
    """
    with open("/proc/self/cmdline", "rb") as file:
        program, *rest = file.read().split(b"\0")[:-1]
    os.execv(sys.executable, [program, b"-X", b"utf8", *rest])


def _open_streams() -> None:
    """Open what is shut, so that no file of ours gets its number and is written to by mistake.

    What is printed on a shut standard output fails as write(2) says (EBADF), since it would be
    lost; what goes to a shut standard error is dropped.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # it gets the lowest number that is free, which is this one
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _run() -> int:
    from reflayer.errors import ReflayerError, UsageError, printable

    try:
        status = _parse_and_run(sys.argv[1:])
        sys.stdout.flush()
    except ReflayerError as error:
        _complain_of(error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        sys.stdout = None  # whoever read our output has enough
        return 1
    except OSError as error:
        where = printable(error.filename or "standard output")  # all other failures have a path
        _complain_with("operation", f"{where}: {error.strerror or error}")
        return 1
    assert isinstance(status, int)
    return status


def _parse_and_run(line: list[str]) -> object:
    from reflayer.cli.commands import read_plainly

    if line == ["--version"]:
        from reflayer import __version__

        print(f"reflayer {__version__}")
        return 0
    if line in ([], ["--help"], ["-h"]):
        from reflayer.cli.help import help_text, start_text
        from reflayer.cli.output import wants_json
        from reflayer.errors import UsageError

        if line:
            print(help_text(), end="")
            return 0
        if wants_json():
            raise UsageError("give a command: reflayer --help lists them")
        try:
            sys.stderr.write(start_text())
        except OSError:
            pass
        return 2
    arguments = read_plainly(line)
    if arguments is None:
        from reflayer.cli.program import parser

        try:
            arguments = parser().parse_args()
        except SystemExit as told:  # it has printed the help, or what is wrong with the usage
            return told.code
    if arguments.is_quiet:
        from reflayer.cli.output import be_quiet

        be_quiet()
    if os.geteuid() != 0:
        from reflayer.cli.namespace import enter_for

        enter_for(arguments)
    return arguments.run(arguments)


def _complain_of(error: ReflayerError) -> None:
    from reflayer.cli.output import complain_of

    complain_of(error)


def _complain_with(code: str, message: object) -> None:
    from reflayer.cli.output import complain_with

    complain_with(code, message)
