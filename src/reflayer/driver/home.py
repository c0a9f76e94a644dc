"""A driver's folder and those in it; what may be a layer's id."""

from __future__ import annotations

import errno
import os

from reflayer.errors import LayerError, failing, printable
from reflayer.linux.mkdir import make_folders

LAYERS = "dir"
BUILDS = "tmp"
TRASH = "trash"
CLONED = "cloned"
FOLDED = "folded"
RESERVED = "unanswered"
FOLDED_LOCK = "folded.lock"
PUBLISH_LOCK = "publish.lock"
TRASH_LOCK = "trash.lock"
QUOTA_LOCK = "quota.lock"

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ALLOWED = _FIRST | frozenset("_.-")
_MOST = 128  # characters: a name of NAME_MAX (255) has room for what is added to it


def checked_id(id: str) -> str:
    """``id``, if a layer may be called so: one plain file name, never a path.

    Raises:
        LayerError: it may not.
    """
    if not is_id(id):
        raise LayerError(
            f"{printable(id[:_MOST])!r} is no layer's id: it takes 1 to {_MOST} of a-z, A-Z, 0-9, "
            "'_', '.' and '-', and begins with a letter or digit"
        )
    return id


def is_id(name: str) -> bool:
    """Whether a layer may be called ``name``."""
    return 0 < len(name) <= _MOST and name[0] in _FIRST and _ALLOWED.issuperset(name)


def layer_path(home: str, id: str) -> str:
    """Where the folder of layer ``id`` is, if it has one."""
    return f"{home}/{LAYERS}/{id}"


def has_folder(home: str, id: str) -> bool:
    """Whether layer ``id`` has a folder."""
    path = layer_path(home, id)
    return os.path.isdir(path) and not os.path.islink(path)


def taken(id: str) -> LayerError:
    """The error for a layer that is there already."""
    return LayerError(f"layer {id} exists already")


def unlink(path: str) -> None:
    """Unlink a file of the driver's own; it is no error where there is none.

    Raises:
        OperationError: it cannot be unlinked.
    """
    with failing(path, "unlink"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def make_home(home: str, group: int | None) -> None:
    """Make the folder ``home`` and those in it, where they are absent; only the owner gets in.

    A ``group`` may pass through to the layers: that of containers' root in a user namespace.

    Raises:
        OperationError: one of them cannot be made.
    """
    try:
        make_folders(home, 0o700)
        for name in (TRASH_LOCK, FOLDED_LOCK):  # now: on a full disk they could not be made
            if not os.path.exists(f"{home}/{name}"):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(f"{home}/{name}", flags, 0o600))
        for name in (LAYERS, BUILDS, TRASH, FOLDED):
            _make_folder(f"{home}/{name}")
        if group is not None:
            for path in (home, f"{home}/{LAYERS}"):
                os.chown(path, -1, group)
                os.chmod(path, 0o710)
    except OSError as error:
        with failing(error.filename or home, "make the driver's folder"):
            raise


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    # Layers are made in here: they must not take their group or an ACL from it.
    os.chown(path, -1, os.getegid())
    os.chmod(path, 0o700)
    for attribute in _ACLS:
        try:
            os.removexattr(path, attribute)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
