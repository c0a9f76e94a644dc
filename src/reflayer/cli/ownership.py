"""``--ownership``, and what tells of it where it would have helped."""

from __future__ import annotations

from contextlib import contextmanager

from reflayer.copy.refusals import REFUSED
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator

_LEFT_OUT = ("chown", "mknod", "setxattr")  # the operations that ``ignore`` does without


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


@contextmanager
def telling_of_ownership(ownership: str) -> Iterator[None]:
    """Where it was an owner, a device or an attribute, the error says how to leave it out."""
    try:
        yield
    except OperationError as error:
        is_left_out = error.errno in REFUSED and error.operation.startswith(_LEFT_OUT)
        if ownership == "ignore" or not is_left_out:
            raise
        reason = f"{error.reason}: --ownership ignore leaves out what only root may set"
        raise OperationError(error.path, error.operation, reason, error.errno) from error
