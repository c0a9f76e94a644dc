"""The extended attributes of a file that are a layer's: read, and told from the system's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reflayer.copy.metadata import list_attributes, list_attributes_at, read_attribute
from reflayer.linux.xattrs import getxattr_at, is_of_tree

if TYPE_CHECKING:
    from collections.abc import Callable


def attributes(fd: int) -> dict[str, bytes]:
    """The attributes of an open file.

    Raises:
        FailedError: a call failed (that of ``reflayer.copy.metadata``).
    """
    return _values(list_attributes(fd), lambda name: os.getxattr(fd, name))


def attributes_at(dir_fd: int, name: bytes) -> dict[str, bytes]:
    """The same of ``name`` itself in an open folder."""
    names = list_attributes_at(dir_fd, name)
    return _values(names, lambda attribute: getxattr_at(dir_fd, name, attribute))


def _values(names: list[str], get: Callable[[str], bytes]) -> dict[str, bytes]:
    found = {}
    for name in sorted(names):
        if is_of_tree(name) and (value := read_attribute(name, get)) is not None:
            found[name] = value
    return found
