"""A driver's folder and those in it: how they are made, opened and written out; layers' ids."""

from __future__ import annotations

import _thread
import errno
import os
from contextlib import contextmanager, suppress

from reflayer.errors import LayerError, failing, printable
from reflayer.linux.mkdir import make_folders
from reflayer.record import record
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.walk.id_map import IdMap

LAYERS = "dir"
DIFFERENCES = "differences"
CHILDREN = "children"
TREES = "trees"
BUILDS = "tmp"
TRASH = "trash"
CLONED = "cloned"
CHANGING = "changing"
SPARES = "spares"
WARM = "warm"
KEEP_FREE = "keep-free"
RESERVED = "unanswered"
MAPS = "maps"
PUBLISH_LOCK = "publish.lock"
TRASH_LOCK = "trash.lock"
QUOTA_LOCK = "quota.lock"
SPARES_LOCK = "spares.lock"

_SELINUX = "/sys/fs/selinux/enforce"  # there where the kernel has SELinux enabled
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ALLOWED = _FIRST | frozenset("_.-")
_MOST = 128  # characters: a name of NAME_MAX (255) has room for what is added to it
_mutex = _thread.allocate_lock()  # on NFS a lock file keeps no threads of one process apart


@record
class Making:
    """How the layers of a home are made; ``owner`` is that of the root of an empty one.

    With an ``id_map`` a clone has the host's ids in place of those that the layers have.
    """

    method: str
    ownership: str
    workers: int | None
    owner: tuple[int, int] | None
    id_map: IdMap | None = None


def checked_id(id: str) -> str:
    """``id``, if a layer may be called so, one plain file name; else ``LayerError``."""
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
    """Where the tree of layer ``id`` is: its folder, or what is made of a difference on demand."""
    return f"{home}/{LAYERS}/{id}"


def has_tree(home: str, id: str) -> bool:
    """Whether there is a folder there."""
    path = layer_path(home, id)
    return os.path.isdir(path) and not os.path.islink(path)


@contextmanager
def naming(home: str) -> Iterator[None]:
    """Let no other thread or process give a layer a name, or take one away: a few system calls."""
    with _mutex, locked(f"{home}/{PUBLISH_LOCK}"):
        yield


def taken(id: str) -> LayerError:
    """The error for a layer that is there already."""
    return LayerError(f"layer {id} exists already")


def unlink(path: str) -> None:
    """Unlink a file of the driver's own; it is no error where there is none."""
    with failing(path, "unlink"), suppress(FileNotFoundError):
        os.unlink(path)


def relink(path: str, text: str) -> None:
    """Let ``path`` be a symbolic link with ``text``, whether or not it was one; in ``naming``."""
    link = f"{os.path.dirname(path)}/.{os.path.basename(path)}"
    unlink(link)
    with failing(link, "symlink"):
        os.symlink(text, link)
        os.rename(link, path)


@contextmanager
def opened(path: str, *, follow: bool = False) -> Iterator[int]:
    """The folder ``path``, open while the block runs; a link to one only with ``follow``."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with failing(path, "open"):
        fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def write_out(fd: int, path: str) -> None:
    """Write out to disk the file system of the open folder ``fd``, which is at ``path``.

    All of it in one call: an fsync of each file would take far longer. Open the folder before
    anything is written: syncfs(2) tells each open file the errors since then.
    """
    from reflayer.linux.libc import syncfs

    with failing(path, "syncfs"):
        syncfs(fd)


def write_new(path: str, content: bytes) -> None:
    """Make the file ``path`` with ``content``; nothing is left of it after an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
    except OSError:
        os.unlink(path)
        raise


def has_labels() -> bool:
    """Whether the kernel has SELinux enabled."""
    return os.path.exists(_SELINUX)


def make_home(home: str, group: int | None) -> None:
    """Make the folder ``home`` and those in it, where they are absent; only the owner gets in.

    A ``group`` may pass through to the layers: that of containers' root in a user namespace.
    """
    try:
        make_folders(home, 0o700)
        for name in (TRASH_LOCK, PUBLISH_LOCK):  # now: on a full disk they could not be made
            if not os.path.exists(f"{home}/{name}"):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(f"{home}/{name}", flags, 0o600))
        for name in (LAYERS, DIFFERENCES, BUILDS, TRASH):
            _make_folder(f"{home}/{name}")
        if group is not None:
            for path in (home, f"{home}/{LAYERS}"):
                os.chown(path, -1, group)
                os.chmod(path, 0o710)
    except OSError as error:
        if error.errno == errno.EROFS and os.path.isdir(f"{home}/{LAYERS}"):
            return  # what an older version has made can be read as it is
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
