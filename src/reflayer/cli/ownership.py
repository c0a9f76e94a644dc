"""``--ownership``, and what tells of it where it would have helped."""

from __future__ import annotations

from reflayer.copy.refusals import REFUSED
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser

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


class telling_of_ownership:  # noqa: N801  # contextlib costs start-up time
    """Where it was an owner, a device or an attribute, the error says how to leave it out."""

    def __init__(self, ownership: str) -> None:
        self._ownership = ownership

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if not isinstance(error, OperationError) or self._ownership == "ignore":
            return
        if error.errno in REFUSED and error.operation.startswith(_LEFT_OUT):
            reason = f"{error.reason}: --ownership ignore leaves out what only root may set"
            raise OperationError(error.path, error.operation, reason, error.errno) from error
