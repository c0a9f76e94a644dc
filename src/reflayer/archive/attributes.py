"""The extended attributes of a file that are a layer's: read, and told from the system's own."""

from __future__ import annotations

import os

from reflayer.copy.metadata import list_attributes, list_attributes_at, read_attribute
from reflayer.linux.xattrs import getxattr_at, is_of_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def attributes(fd: int, skip: Callable[[str], None] | None = None) -> dict[str, bytes]:
    """The attributes of an open file.

    With ``skip`` those of the system are among them, and it is called for each that we may not
    read, with ``xattr``.

    Raises:
        FailedError: a call failed (that of ``reflayer.copy.metadata``).
    """
    return _values(list_attributes(fd), lambda name: os.getxattr(fd, name), skip)


def attributes_at(
    dir_fd: int, name: bytes, skip: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """The same of ``name`` itself in an open folder."""
    names = list_attributes_at(dir_fd, name)
    return _values(names, lambda attribute: getxattr_at(dir_fd, name, attribute), skip)


def _values(
    names: list[str], get: Callable[[str], bytes], skip: Callable[[str], None] | None
) -> dict[str, bytes]:
    found = {}
    for name in sorted(names):
        if skip is None and not is_of_tree(name):
            continue
        if (value := read_attribute(name, get)) is not None:
            found[name] = value
        elif skip is not None:
            skip("xattr")
    return found
