"""The extended attributes of a file that are a layer's: read, and told from the system's own."""

from __future__ import annotations

from reflayer.walk.facts import list_attributes, read_attributes, read_attributes_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def attributes(fd: int, skip: Callable[[str], None] | None = None) -> dict[str, bytes]:
    """The attributes of an open file.

    With ``skip`` those of the system are among them, and it is called for each that we may not
    read, with ``xattr``.

    Raises:
        FailedError: a call failed (that of ``reflayer.walk.facts``).
    """
    return read_attributes(fd, list_attributes(fd), skip)


def attributes_at(
    dir_fd: int, name: bytes, skip: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """The same of ``name`` itself in an open folder."""
    return read_attributes_at(dir_fd, name, skip)
