"""User namespaces: which ids of the host stand for which of a container (user_namespaces(7)).

A layer's archive has a container's ids, its folder on disk those of the host. Owners are not all:
ACLs (acl(5)) and file capabilities (capabilities(7), "Namespaced file capabilities") have ids too.
"""

from __future__ import annotations

import struct
from functools import partial

from reflayer.errors import ArchiveError
from reflayer.linux.xattrs import ACCESS_ACL, DEFAULT_ACL
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Convert = Callable[[int], int]

_CAPABILITY = "security.capability"
_ACL_HEADER = 4  # bytes: the version
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, id: linux/posix_acl_xattr.h
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_CAP_MAGIC = struct.Struct("<I")  # linux/capability.h: VFS_CAP_REVISION_2 and _3
_CAP_REVISION, _CAP_2, _CAP_3 = 0xFF000000, 0x02000000, 0x03000000
_CAP_2_SIZE, _CAP_3_SIZE = 20, 24  # bytes; what is more is the id of the namespace's root


@record
class IdRange:
    """Ids that follow each other.

    Attributes:
        container_id: the first one in the container.
        host_id: the one on the host that stands for it.
        size: how many there are.
    """

    container_id: int
    host_id: int
    size: int


@record
class IdMap:
    """The ids of containers and those of the host; its methods raise ArchiveError where one lacks.

    Attributes:
        uids: the ranges of users; none at all leave every user as it is.
        gids: the same of groups.
    """

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the host that stand for a container's root."""
        return self.to_host(0, 0)

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """A container's user and group as the host has them."""
        return _mapped(uid, self.uids, True), _mapped(gid, self.gids, True)

    def to_container(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's user and group as the container has them."""
        return _mapped(uid, self.uids, False), _mapped(gid, self.gids, False)

    def attributes_to_host(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """The extended attributes of a file in a container as they have to be on the host."""
        return self._attributes(attributes, is_for_host=True)

    def attributes_to_container(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """The extended attributes of a file on the host as the container has them."""
        return self._attributes(attributes, is_for_host=False)

    def _attributes(
        self, attributes: Mapping[str, bytes], *, is_for_host: bool
    ) -> dict[str, bytes]:
        user = partial(_mapped, ranges=self.uids, is_for_host=is_for_host)
        group = partial(_mapped, ranges=self.gids, is_for_host=is_for_host)
        mapped = dict(attributes)
        for name, value in attributes.items():
            if name in (ACCESS_ACL, DEFAULT_ACL):
                mapped[name] = _acl(name, value, user, group)
            elif name == _CAPABILITY:
                mapped[name] = _capability(value, user, is_for_host)
        return mapped


def _mapped(id: int, ranges: tuple[IdRange, ...], is_for_host: bool) -> int:
    for r in ranges:
        here, there = r.host_id, r.container_id
        if is_for_host:
            here, there = there, here
        if here <= id < here + r.size:
            return there + id - here
    if ranges and is_for_host:
        raise ArchiveError(f"Container ID {id} cannot be mapped to a host ID")
    if ranges:
        raise ArchiveError(f"Host ID {id} cannot be mapped to a container ID")
    return id


def _acl(name: str, value: bytes, user: Convert, group: Convert) -> bytes:
    entries = value[_ACL_HEADER:]
    if len(entries) % _ACL_ENTRY.size:
        raise ArchiveError(f"its attribute {name} is malformed")
    converted = bytearray(value[:_ACL_HEADER])
    for tag, permissions, id in _ACL_ENTRY.iter_unpack(entries):
        convert = {_ACL_USER: user, _ACL_GROUP: group}.get(tag)
        converted += _ACL_ENTRY.pack(tag, permissions, convert(id) if convert else id)
    return bytes(converted)


def _capability(value: bytes, user: Convert, is_for_host: bool) -> bytes:
    """File capabilities that hold in the namespace whose root is the container's.

    Without the id of a root they hold for programs of the host's root alone; the container sees its
    own capabilities without the id of its root.
    """
    revision, flags = _revision(value)
    if not revision or (revision == _CAP_2 and not is_for_host):
        return value
    root = user(_CAP_MAGIC.unpack_from(value, _CAP_2_SIZE)[0] if revision == _CAP_3 else 0)
    sets = value[_CAP_MAGIC.size : _CAP_2_SIZE]
    if root:
        return _CAP_MAGIC.pack(_CAP_3 | flags) + sets + _CAP_MAGIC.pack(root)
    return value if is_for_host else _CAP_MAGIC.pack(_CAP_2 | flags) + sets


def _revision(value: bytes) -> tuple[int, int]:
    """The format and the flags; format 0 where the size is not that of one with known ids."""
    magic = _CAP_MAGIC.unpack_from(value)[0] if len(value) >= _CAP_MAGIC.size else 0
    revision = magic & _CAP_REVISION
    if (revision, len(value)) not in ((_CAP_2, _CAP_2_SIZE), (_CAP_3, _CAP_3_SIZE)):
        return 0, 0
    return revision, magic & ~_CAP_REVISION
