"""Names of images and containers on the command line: many at once, and completed."""

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
