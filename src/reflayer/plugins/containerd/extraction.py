"""How containerd unpacks a layer into a folder of ours without any mount, and who asks for that.

For a mount of type overlay containerd's applier mounts nothing, but where it runs in a user
namespace: from 1.6 on it unpacks into ``upperdir`` (core/diff/apply/apply_linux.go). What it leaves
there is put right by ``mending``.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from reflayer.driver.home import opened
from reflayer.errors import failing
from reflayer.linux.idmapped_mount import can_map_ids
from reflayer.linux.statfs import file_system_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.walk.stack import Stack

_KEY = "extract-"  # snapshots.UnpackKeyPrefix of containerd
_INITIAL = 0xEFFFFFFD  # inode of the first user namespace (linux/nsfs.h)
_ALL_IDS = [0, 0, (1 << 32) - 1]  # user_namespaces(7)
_TRIED = "trusted.overlay.reflayer.try"


def is_extraction(key: str) -> bool:
    """Whether the active snapshot ``key`` is for an applier to unpack a layer into.

    containerd calls it so, BuildKit where it wants a layer's tree, and Docker where it commits a
    container. Their namespace and a number stand before it.
    """
    return key.rpartition("/")[2].startswith(_KEY)


def is_unpacked_without_mount(home: str) -> bool:
    """Whether an applier that runs where we do unpacks into a folder of ``home`` itself.

    It sets ``trusted.`` attributes then, and we have to see them.
    """
    if in_user_namespace():
        return False
    with failing(home, "setxattr"):
        try:
            os.setxattr(home, _TRIED, b"y")
            os.removexattr(home, _TRIED)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            return False
    return True


def capabilities(home: str) -> list[str]:
    """What containerd may be told that this snapshotter can, in ``home``, perhaps to be made.

    ``rebase``: layers are differences, so that one can be unpacked before it is known what it lies
    on. ``remap-ids``: a mount can show the owners of a user namespace.
    """
    while not os.path.isdir(home):
        home = os.path.dirname(home)
    with opened(home, follow=True) as folder, failing(home, "statfs"):
        has_snapshots = file_system_name(folder) == "btrfs"
    can = {
        "rebase": not has_snapshots and is_unpacked_without_mount(home),
        "remap-ids": can_map_ids(home),
    }
    return [name for name, is_so in can.items() if is_so]


def in_user_namespace() -> bool:
    """Whether any version of containerd would say so here.

    Newer ones ask which namespace it is, older ones whether it has all ids.
    """
    with suppress(OSError, ValueError):
        if os.stat("/proc/self/ns/user").st_ino != _INITIAL:
            return True
        with open("/proc/self/uid_map") as file:
            return [int(number) for number in file.readline().split()] != _ALL_IDS
    return False


def overlay_options(upper: str, below: Stack | None) -> list[str]:
    """The options of the mount that says where to unpack: into ``upper``, which lies on ``below``.

    Whoever mounts it after all gets the union from overlayfs.
    """
    work = os.path.join(os.path.dirname(upper), "work")
    with failing(work, "mkdir"), suppress(FileExistsError):
        os.mkdir(work, 0o700)
    options = [f"workdir={work}", f"upperdir={upper}"]
    if below is not None:
        options.append(f"lowerdir={':'.join(map(os.fsdecode, below.paths))}")
    return options
