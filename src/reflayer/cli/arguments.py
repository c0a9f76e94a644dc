"""What several commands take: types of arguments, names that a shell completes, options."""

from __future__ import annotations

import os

from reflayer.cli.output import complain
from reflayer.errors import OperationError, ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
    from collections.abc import Callable, Iterable

ANY_NAME = "a name, an id, or the beginning of an id"
ITS_NAME = "its name, its id, or the beginning of its id"

_LEFT_OUT = ("chown", "mknod", "setxattr")  # the operations that --ownership ignore does without


def refusal(reason: str) -> ArgumentTypeError:
    """What a type of arguments raises: an ``argparse.ArgumentTypeError``."""
    from argparse import ArgumentTypeError

    return ArgumentTypeError(reason)


def at_least_one(text: str) -> int:
    """A whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise refusal(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def path(text: str) -> str:
    """A path, with the user's home in place of a ``~`` at its beginning.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise refusal("the path is empty")
    from reflayer.xdg import expanded

    return expanded(text)


def folder(text: str) -> str:
    """The path of a folder that is there.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not os.path.isdir(text):
        raise refusal(f"{text!r} is not a folder")
    return text


def add_container(parser: ArgumentParser, words: str = ITS_NAME) -> None:
    """Let a command take the ``name`` of a container."""
    completed(parser.add_argument("name", metavar="NAME", help=words), complete_containers)


def add_image(parser: ArgumentParser, words: str) -> None:
    """Let a command take an ``image``."""
    completed(parser.add_argument("image", metavar="IMAGE", help=words), complete_images)


def completed(argument: Action, names: Callable[..., list[str]]) -> None:
    """Let argcomplete complete ``argument`` by what ``names`` returns."""
    argument.completer = names  # type: ignore[attr-defined]


def complete_containers(parsed_args: Namespace, **_: object) -> list[str]:
    """The names that a container's can be completed to."""
    from reflayer.store import Store

    try:
        return [container.name for container in Store(parsed_args.root).containers()]
    except ReflayerError:  # the shell has no place to say why
        return []


def complete_images(parsed_args: Namespace, **_: object) -> list[str]:
    """The names that an image's can be completed to."""
    from reflayer.store import Store
    from reflayer.store.find import familiar

    try:
        images = Store(parsed_args.root).images()
    except ReflayerError:
        return []
    return [familiar(name) for image in images for name in image.names]


def complete_either(parsed_args: Namespace, **_: object) -> list[str]:
    """The names that a container's or an image's can be completed to."""
    return complete_containers(parsed_args) + complete_images(parsed_args)


def each(names: Iterable[str], action: Callable[[str], None]) -> int:
    """Do something with each name, though it fails with some; return the exit status."""
    status = 0
    for name in names:
        try:
            action(name)
        except ReflayerError as error:
            complain(error)
            status = 1
    return status


def add_json(parser: ArgumentParser) -> None:
    """Let a command take ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_quiet(parser: ArgumentParser) -> None:
    """Let a command take ``--quiet``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids alone")


def add_wait(parser: ArgumentParser) -> None:
    """Let a command take ``--wait``."""
    parser.add_argument("--wait", action="store_true", help="wait until the files are deleted")


def add_platform(parser: ArgumentParser) -> None:
    """Let a command take ``--platform``."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="take the image for this platform; by default for this machine",
    )


def add_ownership(parser: ArgumentParser, default: str | None = None) -> None:
    """Let a command take ``--ownership``; without ``default`` it is what the store remembers."""
    parser.add_argument(
        "--ownership",
        choices=["keep", "ignore"],
        default=default,
        help=f"by default {default or 'what the store was last told'}. ignore: leave out and count "
        "owners, devices and attributes that only root may set; in a layer that is made, what "
        "belongs to an ordinary user belongs to root",
    )


class telling_of_ownership:  # noqa: N801  # contextlib costs start-up time
    """Where it was an owner, a device or an attribute, the error says how to leave it out."""

    def __init__(self, ownership: str) -> None:
        self._ownership = ownership

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: object, __: object) -> None:
        if not isinstance(error, OperationError) or self._ownership == "ignore":
            return
        from reflayer.walk.metadata import REFUSED

        if error.errno in REFUSED and error.operation.startswith(_LEFT_OUT):
            reason = f"{error.reason}: --ownership ignore leaves out what only root may set"
            raise OperationError(error.path, error.operation, reason, error.errno) from error
