"""``--ownership``, and what tells of it where it would have helped."""

from __future__ import annotations

import errno
from contextlib import contextmanager

from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator


def add_ownership(parser: ArgumentParser) -> None:
    """Let a command take ``--ownership``."""
    parser.add_argument(
        "--ownership",
        choices=["keep", "ignore"],
        default="keep",
        help="ignore: leave out and count owners, devices and attributes that only root may set; "
        "in a layer that is made, what belongs to an ordinary user belongs to root",
    )


@contextmanager
def telling_of_ownership(ownership: str) -> Iterator[None]:
    """Where something that is to be kept is not permitted, the error says how to leave it out."""
    try:
        yield
    except OperationError as error:
        if error.errno != errno.EPERM or ownership == "ignore":
            raise
        reason = f"{error.reason}: --ownership ignore leaves out what only root may set"
        raise OperationError(error.path, error.operation, reason, error.errno) from error
