"""The form of a difference: what a folder holds that is laid over others, as overlayfs has it.

A difference has what is new or changed as it is. A deleted name is a character device 0:0, and a
folder that replaces one below has the attribute ``overlay.opaque`` (overlayfs.rst in the kernel's
documentation, "Whiteouts and opaque directories"), among the ``trusted.`` attributes, or among the
``user.`` ones for who may not set those.

A tree may have such things itself. So a difference has them in another way: an attribute
``overlay.X`` as ``overlay.overlay.X``, as with overlayfs; a device 0:0 as an empty file that is
marked. A second mark is on folders that stand there only for what is in them: the layer that the
difference was made of has no entry for them. A third is on the root if an entry's path led by a
link of a layer below: what it led to is not at that path here. Marks are ``overlay.`` attributes,
too. So whatever is called so in a difference, and is not written in that other way, is none of the
tree's.

In the lowest layer of a stack, which is whole, all of these are what they are in any tree.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OWN = ("trusted.overlay.", "user.overlay.")
_ESCAPED = ("trusted.overlay.overlay.", "user.overlay.overlay.")
_OPAQUE, _IMPLIED, _DEVICE = "opaque", "reflayer.implied", "reflayer.device"
_BY_LINK = "reflayer.by-link"
_FEATURES = frozenset(own + feature for own in _OWN for feature in ("redirect", "metacopy"))
_YES = b"y"

WHITEOUT_MODE = stat.S_IFCHR
"""What mknod(2) makes a whiteout with, beside the device 0; it needs no privilege (Linux 5.8)."""


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a name in a difference is deleted below: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and not status.st_rdev


def is_opaque(folder: int | bytes) -> bool:
    """Whether a folder of a difference, open or by its path, hides what is below it."""
    return _has_mark(folder, _OPAQUE, _YES)


def is_by_link(root: bytes) -> bool:
    """Whether paths of a difference's layer led by links of layers below."""
    return _has_mark(root, _BY_LINK, _YES)


def is_implied(attributes: Iterable[str]) -> bool:
    """Whether a difference's folder with these attributes has no entry in its layer."""
    return any(own + _IMPLIED in attributes for own in _OWN)


def is_device(attributes: Iterable[str]) -> bool:
    """Whether a difference's file with these attributes stands for a character device 0:0."""
    return any(own + _DEVICE in attributes for own in _OWN)


def is_own(attribute: str) -> bool:
    """Whether an attribute of that name in a difference is none of the tree's."""
    return attribute.startswith(_OWN) and not attribute.startswith(_ESCAPED)


def tree_names(attributes: Iterable[str]) -> list[str]:
    """Those attributes of an entry of a difference that it has in the tree, too.

    Raises:
        OSError: EOPNOTSUPP where overlayfs itself has left a part of the entry in a layer below.
    """
    for name in _FEATURES.intersection(attributes):
        feature = name.rpartition(".")[2]
        reason = f"overlayfs made it with its feature {feature}, which a stack here may not have"
        raise OSError(errno.EOPNOTSUPP, reason)
    return [name for name in attributes if not is_own(name)]


def tree_attributes(attributes: Mapping[str, bytes]) -> dict[str, bytes]:
    """The attributes that an entry of a difference has in the tree; raises as ``tree_names``."""
    return {
        name.replace("overlay.", "", 1) if name.startswith(_ESCAPED) else name: attributes[name]
        for name in tree_names(attributes)
    }


def difference_attributes(attributes: Mapping[str, bytes]) -> dict[str, bytes]:
    """The attributes by which an entry of a tree stands in a difference."""
    return {
        name.replace("overlay.", "overlay.overlay.", 1) if name.startswith(_OWN) else name: value
        for name, value in attributes.items()
    }


def clear_marks(file: int | bytes) -> None:
    """Let what is open, or at a path, have the attributes of the tree in place of a difference's.

    For where no layer is below any more.
    """
    names = [name for name in os.listxattr(file) if name.startswith(_OWN)]
    for name in sorted(names, key=len):  # so that none takes the place of one that is still to come
        attribute = {name: os.getxattr(file, name)}
        os.removexattr(file, name)
        for plain, value in tree_attributes(attribute).items():
            os.setxattr(file, plain, value)


def clear_own(folder: int) -> None:
    """Take away what makes an open folder one of a difference."""
    for name in filter(is_own, os.listxattr(folder)):
        os.removexattr(folder, name)


class Marks:
    """Sets a difference's own attributes, among those that this process may set."""

    def __init__(self, folder: int) -> None:
        """Find out which those are by trying it on the open ``folder``, which stays as it is.

        Raises:
            OSError: EOPNOTSUPP or EPERM where it may set none, so that no difference can be here.
        """
        for self._own in _OWN:
            name = self._own + "reflayer.try"
            try:
                os.setxattr(folder, name, _YES)
                os.removexattr(folder, name)
            except OSError as error:
                if self._own == _OWN[-1] or error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise
            else:
                return

    @property
    def device(self) -> dict[str, bytes]:
        """The attribute that marks an empty file as a character device 0:0 of the tree."""
        return {self._own + _DEVICE: _YES}

    def set_opaque(self, folder: int | bytes) -> None:
        """Let a folder, open or by its path, hide what is below it."""
        os.setxattr(folder, self._own + _OPAQUE, _YES)

    def set_implied(self, folder: int | bytes) -> None:
        """Mark a folder as one that has no entry in its layer."""
        os.setxattr(folder, self._own + _IMPLIED, _YES)

    def clear_implied(self, folder: int | bytes) -> None:
        """Its entry has come."""
        with suppress(OSError):  # ENODATA: it was not marked
            os.removexattr(folder, self._own + _IMPLIED)

    def set_by_link(self, root: int) -> None:
        """Mark the root of a difference: a path led by a link of a layer below."""
        os.setxattr(root, self._own + _BY_LINK, _YES)

    def set_device(self, file: int | bytes) -> None:
        """Mark an empty file as a character device 0:0 of the tree."""
        os.setxattr(file, self._own + _DEVICE, _YES)


def _has_mark(file: int | bytes, mark: str, value: bytes) -> bool:
    with suppress(OSError):  # attributes that this user may not read, or a place without any
        names = os.listxattr(file)
        return bool(names) and any(
            os.getxattr(file, own + mark) == value for own in _OWN if own + mark in names
        )
    return False
