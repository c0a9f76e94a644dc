"""What is run in a container: the image's words joined with those asked for, as Docker does it."""

from __future__ import annotations

import os
import stat

from reflayer.errors import SandboxError, printable
from reflayer.record import record
from reflayer.sandbox import inside
from reflayer.sandbox.users import User, look_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127  # docker-run(1), "Exit Status"


@record
class Volume:
    """A file or folder of the host, or of the container itself, that is seen in the container."""

    source: str
    destination: str
    read_only: bool = False


@record
class Wanted:
    """How a command is to be run; what is None or empty is as the image says.

    Attributes:
        command: in place of the image's; its entrypoint stays before it.
        entrypoint: in place of the image's, whose command then does not count.
        env: ``KEY=VALUE``, or ``KEY`` alone for one that it is not to have.
        user: ``USER[:GROUP]``.
        terminal: let it have one.
        network: ``host`` or ``none``.
        read_only: let it change nothing in the root, but in volumes.
    """

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    volumes: tuple[Volume, ...] = ()
    terminal: bool = False
    network: str = "host"
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.network not in ("host", "none"):
            raise ValueError(f"network {self.network!r} is neither host nor none")
        for word in (*self.command, *self.env, self.workdir, self.user):
            if "\0" in word:
                raise ValueError("no word of a command has a null byte")


@record
class Process:
    """One that is run."""

    args: tuple[str, ...]
    env: tuple[str, ...]  # KEY=VALUE
    cwd: str
    user: User
    terminal: bool


def process_of(settings: Mapping[str, object], wanted: Wanted, root: int, hostname: str) -> Process:
    """What an image's ``config`` and ``wanted`` mean in the container with the folder ``root``.

    Raises:
        SandboxError: there is no command, no such user, or the image's words are no such.
        OSError: a file in the container cannot be read.
    """
    from reflayer.images.model.document import Document  # it brings JSON

    image = Document(dict(settings), "the image's config")
    entrypoint, command = image.words("Entrypoint"), image.words("Cmd")
    if wanted.entrypoint is not None:
        entrypoint, command = list(wanted.entrypoint), []
    args = (*entrypoint, *(wanted.command or command))
    if not args:
        raise SandboxError("the image has no command: give one")
    user = look_up(root, wanted.user or image.string("User"))
    env = {"PATH": _PATH, "HOSTNAME": hostname}
    if wanted.terminal:
        env["TERM"] = "xterm"
    for word in (*image.strings("Env"), *wanted.env):
        key, given, value = word.partition("=")
        if given and key:
            env[key] = value
        elif key in env and word in wanted.env:
            del env[key]
    env.setdefault("HOME", user.home)
    cwd = wanted.workdir or image.string("WorkingDir") or "/"
    if wanted.workdir and not cwd.startswith("/"):
        raise SandboxError(f"{printable(cwd)}: the working directory has to be an absolute path")
    words = tuple(f"{key}={value}" for key, value in env.items())
    return Process(args, words, os.path.normpath("/" + cwd.lstrip("/")), user, wanted.terminal)


def volumes_of(settings: Mapping[str, object]) -> list[str]:
    """The paths that an image says are volumes."""
    volumes = settings.get("Volumes")
    return [path for path in volumes if path.startswith("/")] if isinstance(volumes, dict) else []


def refuse_missing(process: Process, root: int, mounted: list[str]) -> None:
    """Raise a SandboxError, as execvp(3) would, where the command is not in the container.

    What is below ``mounted`` is not looked for.
    """
    name = process.args[0]
    denied = False
    for path in _candidates(process, name):
        if any(path == one or path.startswith(f"{one}/") for one in mounted):
            return
        found = inside.status(root, path)
        if found is None:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
            return
        denied = True
    if denied:
        raise SandboxError(f"{printable(name)}: permission denied", NOT_EXECUTABLE)
    where = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    raise SandboxError(f"{printable(name)}: {where}", NOT_FOUND)


def _candidates(process: Process, name: str) -> Iterator[str]:
    if "/" in name:
        yield os.path.join(process.cwd, name)
        return
    path = next(word for word in process.env if word.startswith("PATH="))[len("PATH=") :]
    for folder in path.split(":") if name else ():
        yield os.path.join(process.cwd, folder, name)
