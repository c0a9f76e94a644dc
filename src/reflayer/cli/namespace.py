"""An ordinary user's commands run in a user namespace with all of his ids, where there is one."""

from __future__ import annotations

import errno
import os
import sys

from reflayer.cli.arguments import option, takes
from reflayer.cli.output import complain_of, complain_with
from reflayer.errors import OperationError, ReflayerError, failing, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.store import Store

_TAKE_IN = ("create", "pull", "run", "warm")  # a folder as an image
_NOT_FOUND, _NOT_STARTED = 127, 126  # as a shell's status tells it
_NOT_RUN = 125  # as Docker's does


def enter_namespace(source: str = "", *, is_image: bool = False) -> None:
    """Enter one, unless this is root, of this machine or of a namespace, or there is none to have.

    Nor is it done for ``source``, a folder that is to be copied, if something in it is somebody's
    whom a namespace does not know: it would be nobody's there, and so would its copy.

    Raises:
        ReflayerError: it is so, and the copy is to be an image of the store, which is inside.
    """
    user = os.geteuid()
    if user == 0 or user != os.getuid():
        return
    from reflayer.linux.user_namespace import ForeignError, NamespaceError, enter

    _keep_home()
    try:
        enter(source)
    except NamespaceError as error:  # doctor tells why
        if is_image and isinstance(error, ForeignError):
            raise ReflayerError(str(error)) from None


def _keep_home() -> None:
    """Inside, passwd(5) has another user's."""
    from reflayer import xdg

    home = xdg.in_home("")
    if home is not None:
        os.environ.setdefault("HOME", home)


def enter_for(arguments: Namespace) -> None:
    """Enter one for a command."""
    image: str = getattr(arguments, "image", None) or ""
    if arguments.command == "exec":  # see enter_beside
        return
    if arguments.command in _TAKE_IN and image.startswith("rootfs:"):
        try:
            enter_namespace(image.removeprefix("rootfs:"), is_image=True)
        except ReflayerError as error:
            if arguments.command != "run":
                raise
            complain_of(error)
            sys.exit(_NOT_RUN)
    else:
        enter_namespace(getattr(arguments, "src", ""))


def enter_beside(store: Store, name: str) -> None:
    """Enter the namespace in which something runs in a container; where nothing does, a new one.

    Nothing that runs in one is in the reach of who is in another, though the ids are the same.
    """
    from reflayer.linux.user_namespace import enter_towards, has_ranges
    from reflayer.sandbox.run import process_in

    if os.geteuid() != 0 and has_ranges() and (pid := process_in(store, store.container(name))):
        _keep_home()
        try:
            with failing(f"/proc/{pid}/ns/user", "enter"):
                enter_towards(pid)
        except OperationError as error:
            if error.errno != errno.ENOENT:
                raise
            enter_namespace()  # it has just ended
    else:
        enter_namespace()


@takes(
    option(
        "command COMMAND",
        "the program, and its arguments; by default the user's shell",
        nargs="...",  # all that follows
    ),
)
def unshare(arguments: Namespace) -> int:
    """Run a program where an ordinary user's commands run: in a user namespace in which he is
    root over the ids that /etc/subuid and /etc/subgid give him. There, what is in images and
    containers has the owners that it has in them, and can be looked at and changed. Who is
    root already gets the program as it is.

    The exit status is the program's; 127 and 126 where it is not found or does not start.
    """
    from signal import SIG_DFL, SIGPIPE, signal

    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        del command[0]
    if os.geteuid() != 0:
        from reflayer.linux.user_namespace import why_none

        raise ReflayerError(f"there is no user namespace for this user: {why_none()}")
    command = command or [os.environ.get("SHELL") or "/bin/sh"]
    signal(SIGPIPE, SIG_DFL)  # Python ignores it, and a program would inherit that
    try:
        os.execvp(command[0], command)
    except OSError as error:
        complain_with("sandbox", f"{printable(command[0])}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
