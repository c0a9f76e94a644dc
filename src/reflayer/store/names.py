"""Names and ids of containers: what may be one, and names for those who were given none."""

from __future__ import annotations

import os
import re

from reflayer.errors import StoreError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
_MOODS = (
    "amber brisk calm clever eager fair fond gentle glad hardy keen kind lively lucid merry mild "
    "neat nimble patient plain proud quiet ready serene sharp steady sunny swift tidy warm wise"
)
_THINGS = (
    "alder anvil beacon birch bridge cedar cliff comet copper delta ember fern fjord flint grove "
    "harbor hazel lantern maple meadow mesa oak orchard pebble prairie quartz reef ridge river "
    "slate spruce summit timber valley willow"
)


def new_id() -> str:
    """A new id: 64 hexadecimal digits, at random."""
    return os.urandom(32).hex()


def checked_name(name: str) -> str:
    """``name``, if a container may be called so, by Docker's rule.

    Raises:
        StoreError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{printable(name)!r} is no name for a container: it takes two or more of "
            "a-z, A-Z, 0-9, '_', '.' and '-', and begins with a letter or digit"
        )
    return name


def free_name(taken: Container[str]) -> str:
    """A name in Docker's manner that is not ``taken``: two words, and a number if need be."""
    tries = 0
    while True:
        number = tries // 10 or ""
        name = f"{_one_of(_MOODS)}_{_one_of(_THINGS)}{number}"
        if name not in taken:
            return name
        tries += 1


def _one_of(choice: str) -> str:
    words = choice.split()
    return words[int.from_bytes(os.urandom(4), "big") % len(words)]
