"""What several commands take: types of arguments, and options that are the same everywhere."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, ArgumentTypeError


def _refusal(reason: str) -> ArgumentTypeError:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(reason)


def at_least_one(text: str) -> int:
    """A whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise _refusal(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def path(text: str) -> str:
    """A path, with the user's home in place of a ``~`` at its beginning.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise _refusal("the path is empty")
    from reflayer.xdg import expanded

    return expanded(text)


def folder(text: str) -> str:
    """The path of a folder that is there.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not os.path.isdir(text):
        raise _refusal(f"{text!r} is not a folder")
    return text


def add_json(parser: ArgumentParser) -> None:
    """Let a command take ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
