"""Names of images and containers on the command line: many at once, completed, and shown."""

from __future__ import annotations

from reflayer.cli.output import complain
from reflayer.errors import ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable


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


def familiar(name: str) -> str:
    """An image's name as Docker shows it; where an image came from stays as it is."""
    from reflayer.images import Reference, open_source

    try:
        source = open_source(name)
    except ReflayerError:  # <none>, or an id
        return name
    return source.familiar() if isinstance(source, Reference) else name


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

    try:
        images = Store(parsed_args.root).images()
    except ReflayerError:
        return []
    return [familiar(name) for image in images for name in image.names]
