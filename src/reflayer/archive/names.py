"""Names as archives have them, and what the ones that begin with ``.wh.`` mean.

OCI image-spec, layer.md: "Whiteouts" and "Opaque Whiteout".
"""

from __future__ import annotations

from reflayer.errors import ArchiveError

WHITEOUT_PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_INODES = b".wh..wh.plnk"
"""Where AUFS kept files of several names: what links to one of them is taken, by Docker too."""

_AUFS_PREFIX = b".wh..wh."


def clean(name: bytes) -> bytes:
    """``name`` as a path from the layer's root, which itself is empty.

    ``..`` goes up one name and stops at the root, as in the tools of Docker, containerd and umoci;
    no file is looked at.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name[:-1]
    if name and name[0] not in b"/." and b"//" not in name and b"/." not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def join(path: bytes, name: bytes) -> bytes:
    """The path of ``name`` in the folder ``path``, which is ``.`` for the root."""
    return name if path == b"." else path + b"/" + name


def is_aufs_metadata(path: bytes) -> bool:
    """Whether ``path`` is what AUFS kept for itself, which Docker leaves out too."""
    return path.startswith(_AUFS_PREFIX) and path != OPAQUE


def hidden_name(whiteout: bytes) -> bytes:
    """The name that the whiteout's name hides.

    Raises:
        ArchiveError: it would hide the folder itself, or the one above.
    """
    name = whiteout[len(WHITEOUT_PREFIX) :]
    if name in (b"", b".", b".."):
        raise ArchiveError("a whiteout of a folder by way of itself")
    return name
