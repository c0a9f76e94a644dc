"""How a command tells what it takes, and what several of them take."""

from __future__ import annotations

import os

from reflayer.cli.output import complain_of
from reflayer.errors import OperationError, QuotaError, ReflayerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentTypeError, Namespace
    from argparse import _ActionsContainer as ArgumentParser
    from collections.abc import Callable, Iterable
    from typing import Any

    from reflayer.store import Store
    from reflayer.walk.id_map import IdMap

    Command = Callable[[Any], int]
    Option = Callable[[ArgumentParser], object]  # adds itself

ANY_NAME = "a name, an id, or the beginning of an id"
_LEFT_OUT = ("chown", "mknod", "setxattr")  # the operations that can be done without


def takes(*options: Option) -> Callable[[Command], Command]:
    """Let a command take ``options``. Its docstring is the text of its help."""

    def tell(command: Command) -> Command:
        command.options = options  # type: ignore[attr-defined]
        return command

    return tell


def option(spec: str, told: str, completed_by: str | None = None, **settings: Any) -> Option:
    """An option or positional argument.

    Args:
        spec: its names and what its value is called, as help shows them: ``-o --output FILE``.
        told: what help tells of it.
        completed_by: the names that a shell completes it by: "containers", "images" or "either";
            "checkpoints" of the container that is the first argument; "states", what a container
            is or was: NAME[@CHECKPOINT].
        settings: others of argparse's ``add_argument``.
    """
    names = spec.split()
    if not names[-1].startswith("-"):
        settings["metavar"] = names.pop()

    def add(parser: ArgumentParser) -> None:
        parser.add_argument(*names, help=told, **settings).completed_by = completed_by  # type: ignore[attr-defined]

    return add


def group(title: str, about: str, *options: Option) -> Option:
    """Options that help shows together."""

    def add(parser: ArgumentParser) -> None:
        shown = parser.add_argument_group(title, about)
        for one in options:
            one(shown)

    return add


def refusal(reason: str) -> ArgumentTypeError:
    """What a type of arguments raises where a word is not of it."""
    from argparse import ArgumentTypeError

    return ArgumentTypeError(reason)


def number_to(most: int) -> Callable[[str], int]:
    """What reads a whole number from 0 to ``most``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) > most:
            raise refusal(f"{text!r} is not a whole number from 0 to {most}")
        return int(text)

    return number


def percent(text: str) -> int:
    """A share of a disk that can stay free."""
    return number_to(99)(text.removesuffix("%"))


def at_least_one(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise refusal(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def size(text: str) -> int:
    """So many bytes: ``10G``, ``512M``."""
    from reflayer.driver.quota import size_in_bytes

    try:
        return size_in_bytes(text)
    except QuotaError as error:
        raise refusal(str(error)) from None


def any_path(text: str) -> str:
    """A path that is not empty, with the user's home in place of a ``~`` at its beginning."""
    if not text:
        raise refusal("the path is empty")
    from reflayer.xdg import expanded

    return expanded(text)


def folder(text: str) -> str:
    """The path of a folder that is there."""
    if not os.path.isdir(text):
        raise refusal(f"{text!r} is not a folder")
    return text


def each(names: Iterable[str], action: Callable[[str], None]) -> int:
    """Do something with each name, though it fails with some; return the exit status."""
    status = 0
    for name in names:
        try:
            action(name)
        except ReflayerError as error:
            complain_of(error)
            status = 1
    return status


JSON = option("--json", "print JSON", action="store_true")
QUIET = option("-q --quiet", "print ids alone", action="store_true")
WAIT = option("--wait", "wait until the files are deleted", action="store_true")
PLATFORM = option(
    "--platform OS/ARCH[/VARIANT]", "take the image for this platform; by default for this machine"
)


MAP = option(
    "--map CONTAINER:HOST[:SIZE]",
    "give its files the ids of a user namespace: HOST and those after it in place of CONTAINER and "
    "those after it, SIZE of them; u or g before it: of users or groups alone. Can be given again",
    action="append",
)


def map_of(arguments: Namespace) -> IdMap | None:
    """What ``MAP`` says."""
    if arguments.map is None:
        return None
    from reflayer.walk.id_map import IdMap

    try:
        return IdMap.parse(",".join(arguments.map))
    except ValueError as error:
        raise UsageError(f"--map {error}") from None


def ownership(default: str | None = None) -> Option:
    """``--ownership``; without ``default`` it is what the store remembers."""
    return option(
        "--ownership",
        "owners, devices and attributes that only root may set are an error (keep), or kept in "
        "attributes beside, where that is possible (record), or left out (ignore). By default "
        + (default or "what the store was last told, at first keep for root, record for others")
        + ". In a layer that is made, what belongs to an ordinary user belongs to root",
        choices=["keep", "record", "ignore"],
        default=default,
    )


def container_name(words: str = "its name, its id, or the beginning of its id") -> Option:
    """The ``name`` of a container."""
    return option("name NAME", words, completed_by="containers")


def image_name(words: str) -> Option:
    """An ``image``."""
    return option("image IMAGE", words, completed_by="images")


class telling_of_ownership:  # noqa: N801  # contextlib costs start-up time
    """Let an error over an owner, a device or an attribute tell of ``--ownership``."""

    def __init__(self, ownership: Callable[[], str]) -> None:
        self._ownership = ownership  # asked for only then: a store has to be read for it

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: object, __: object) -> None:
        if not isinstance(error, OperationError):
            return
        from reflayer.walk.metadata import REFUSED

        is_of_it = error.errno in REFUSED and error.operation.startswith(_LEFT_OUT)
        if is_of_it and self._ownership() == "keep":
            reason = (
                f"{error.reason}: only root may set it; --ownership record keeps it beside where "
                "that is possible, and --ownership ignore leaves it out"
            )
            raise OperationError(error.path, error.operation, reason, error.errno) from error


def open_store(arguments: Namespace) -> Store:
    """The store that ``--root`` names, with what ``--ownership`` says if the command takes it."""
    from reflayer.store import Store

    return Store(arguments.root, ownership=getattr(arguments, "ownership", None))
