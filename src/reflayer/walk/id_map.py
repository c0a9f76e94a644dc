"""User namespaces: which ids of the host stand for which of a container (user_namespaces(7)).

A layer's archive has a container's ids, its folder on disk those of the host. Owners are not all:
ACLs (acl(5)) and file capabilities (capabilities(7), "Namespaced file capabilities") have ids too.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial

from reflayer.errors import ArchiveError
from reflayer.linux.xattrs import ACCESS_ACL, DEFAULT_ACL
from reflayer.record import record
from reflayer.walk.facts import FailedError, changed_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Convert = Callable[[int], int]

_ALL = 2**32 - 1
"""How many ids there are: the last number is none (chown(2))."""

_CAPABILITY = "security.capability"
_ACL_HEADER = 4  # bytes: the version
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, id: linux/posix_acl_xattr.h
_ACL_OWNER, _ACL_USER, _ACL_OWNING_GROUP, _ACL_GROUP = 0x01, 0x02, 0x04, 0x08
_ACL_MASK, _ACL_OTHERS = 0x10, 0x20
_ACL_VERSION = struct.pack("<I", 2)
_NO_ID = 2**32 - 1
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

    def __str__(self) -> str:
        return f"{self.container_id}:{self.host_id}:{self.size}"


@record
class IdMap:
    """The ids of containers and those of the host; its methods raise ArchiveError where one lacks.

    Attributes:
        uids: the ranges of users; none at all leave every user as it is.
        gids: the same of groups.
    """

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()

    @classmethod
    def parse(cls, text: str) -> IdMap:
        """The map of ranges ``CONTAINER:HOST[:SIZE]`` between commas, by default of one id.

        One that begins with ``u`` is of users alone, one with ``g`` of groups. Where there are none
        for one of the two, it has those of the other.

        Raises:
            ValueError: one of them is none, or two of a kind have an id in common.
        """
        kinds: tuple[list[IdRange], list[IdRange]] = ([], [])
        for one in text.split(","):
            found = _range(one[1:] if one[:1] in ("u", "g") else one)
            for other, ranges in zip("gu", kinds, strict=True):
                if one[:1] != other:
                    ranges.append(found)
        for ranges in kinds:
            _refuse_twice(ranges)
        uids, gids = map(tuple, kinds)
        return cls(uids or gids, gids or uids)

    def __str__(self) -> str:
        """What ``parse`` takes."""
        if self.uids == self.gids:
            return ",".join(map(str, self.uids))
        return ",".join((*(f"u{one}" for one in self.uids), *(f"g{one}" for one in self.gids)))

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the host that stand for a container's root."""
        return self.to_host(0, 0)

    @property
    def for_host(self) -> Conversion:
        """What makes the host's ids of a container's."""
        return Conversion(self.uids, self.gids, is_for_host=True)

    @property
    def for_container(self) -> Conversion:
        """What makes a container's ids of the host's."""
        return Conversion(self.uids, self.gids, is_for_host=False)

    def has_group(self, gid: int) -> bool:
        """Whether a group of a container has one on the host."""
        inside = (one.container_id <= gid < one.container_id + one.size for one in self.gids)
        return any(inside) or not self.gids

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """A container's user and group as the host has them."""
        return self.for_host.owner(uid, gid)

    def to_container(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's user and group as the container has them."""
        return self.for_container.owner(uid, gid)

    def attributes_to_host(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """The extended attributes of a file in a container as they have to be on the host."""
        return self.for_host.attributes(attributes)

    def attributes_to_container(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """The extended attributes of a file on the host as the container has them."""
        return self.for_container.attributes(attributes)


@record
class Conversion:
    """One way of an ``IdMap``, whose fields it has; ArchiveError where an id lacks."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    is_for_host: bool

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """The user and the group that stand for these."""
        is_for_host = self.is_for_host
        return _mapped(uid, self.uids, is_for_host), _mapped(gid, self.gids, is_for_host)

    def attributes(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """The extended attributes with the ids that are in ACLs and file capabilities."""
        is_for_host = self.is_for_host
        user = partial(_mapped, ranges=self.uids, is_for_host=is_for_host)
        group = partial(_mapped, ranges=self.gids, is_for_host=is_for_host)
        mapped = dict(attributes)
        for name, value in attributes.items():
            if name in (ACCESS_ACL, DEFAULT_ACL):
                mapped[name] = _acl(name, value, user, group)
            elif name == _CAPABILITY:
                mapped[name] = _capability(value, user, is_for_host)
        return mapped

    def packed(self) -> tuple[bytes, bytes]:
        """The ranges of users and groups for the part in C: first ids, and what stands for them."""
        return _packed(self.uids, self.is_for_host), _packed(self.gids, self.is_for_host)


def converted_status(ids: Conversion | None, status: os.stat_result) -> os.stat_result:
    """The status with the owner and group that stand for what it has.

    Raises:
        FailedError: there are none.
    """
    if ids is None:
        return status
    try:
        owner = ids.owner(status.st_uid, status.st_gid)
    except ArchiveError as error:
        raise _failed(error) from error
    return changed_status(status, {4: owner[0], 5: owner[1]})


def converted_attributes(ids: Conversion | None, attributes: dict[str, bytes]) -> dict[str, bytes]:
    """The attributes with the ids that stand for theirs; FailedError as above."""
    if ids is None or not attributes:
        return attributes
    try:
        return ids.attributes(attributes)
    except ArchiveError as error:
        raise _failed(error) from error


def let_pass(folder: str, uid: int) -> None:
    """Let a user of the host get through a folder to what he knows to be in it, by an ACL.

    Raises:
        OSError: the file system has no such lists.
    """
    mode = os.stat(folder).st_mode
    try:
        value = os.getxattr(folder, ACCESS_ACL)
        entries = {(tag, id): may for tag, may, id in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER:])}
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        value = _ACL_VERSION
        kinds = ((_ACL_OWNER, 6), (_ACL_OWNING_GROUP, 3), (_ACL_OTHERS, 0))
        entries = {(tag, _NO_ID): mode >> shift & 7 for tag, shift in kinds}
    if mode & 0o001 or entries.get((_ACL_USER, uid), 0) & 1:
        return
    entries[_ACL_USER, uid] = 1
    entries[_ACL_MASK, _NO_ID] = 1 | entries.get((_ACL_MASK, _NO_ID), mode >> 3 & 7)
    packed = (_ACL_ENTRY.pack(tag, may, id) for (tag, id), may in sorted(entries.items()))
    os.setxattr(folder, ACCESS_ACL, value[:_ACL_HEADER] + b"".join(packed))


def _failed(error: ArchiveError) -> FailedError:
    return FailedError("map its owners", OSError(errno.EOVERFLOW, error.reason))


def _range(text: str) -> IdRange:
    words = text.split(":")
    if len(words) == 2:
        words.append("1")
    if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
        raise ValueError(f"{text!r} is not CONTAINER:HOST[:SIZE], say 0:100000:65536")
    found = IdRange(*map(int, words))
    if not found.size or max(found.container_id, found.host_id) + found.size > _ALL:
        raise ValueError(f"{text!r}: there are the ids 0 to {_ALL - 1}")
    return found


def _refuse_twice(ranges: list[IdRange]) -> None:
    for attribute in ("container_id", "host_id"):
        end = 0
        for one in sorted(ranges, key=lambda one: getattr(one, attribute)):
            first = getattr(one, attribute)
            if first < end:
                raise ValueError(f"the id {first} of {one} is in another range, too")
            end = first + one.size


def _packed(ranges: tuple[IdRange, ...], is_for_host: bool) -> bytes:
    return b"".join(
        struct.pack(
            "=3I",
            one.container_id if is_for_host else one.host_id,
            one.host_id if is_for_host else one.container_id,
            one.size,
        )
        for one in ranges
    )


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
