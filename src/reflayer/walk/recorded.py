"""What this user cannot give an inode, kept beside it in attributes of its own.

- ``user.rootlesscontainers``: owner and group, as umoci and rootlesscontaine.rs have them: a
  protobuf message of two numbers (github.com/rootless-containers/proto).
- ``user.containers.override_stat``: ``uid:gid:0mode:type``, as containers/storage and
  fuse-overlayfs have it: on an empty file that stands in for a device (``char-1-3``), and on a file
  that its owner may not read (``file``).
- ``user.reflayer.NAME``: the attribute ``NAME`` that only root may set, say a file capability.
- ``user.reflayer.names``, on a folder: the owners of the symbolic links, FIFOs and sockets in it,
  which can have no such attributes. Each is known by a hash of its name and of its modification
  time, so that another of that name has not its owner. It goes where the folder goes.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER = "user.rootlesscontainers"
STATUS = "user.containers.override_stat"
KEPT = "user.reflayer."  # before the name of an attribute
NAMES = "user.reflayer.names"

_UNCHANGED = 2**32 - 1
_UID, _GID = b"\x08", b"\x10"  # fields 1 and 2, variable-length numbers
_READABLE = 0o400
_DEVICES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}


def owner_record(uid: int, gid: int) -> bytes:
    """The value of ``OWNER``; the message leaves out what is 0."""
    return b"".join(field + _varint(id) for field, id in ((_UID, uid), (_GID, gid)) if id)


def owner_of(record: bytes, uid: int, gid: int) -> tuple[int, int]:
    """The owner and group that a record tells of what has ``uid`` and ``gid`` without it."""
    found = {_UID: 0, _GID: 0}
    at = 0
    while at < len(record):
        field = record[at : at + 1]
        try:
            value, at = _number(record, at + 1)
        except IndexError:
            return uid, gid  # it is no such message
        if field not in found:
            return uid, gid
        found[field] = value & _UNCHANGED
    return (
        uid if found[_UID] == _UNCHANGED else found[_UID],
        gid if found[_GID] == _UNCHANGED else found[_GID],
    )


def key_of(name: bytes, mtime: int) -> int:
    """By what a link of that name and time, in nanoseconds, is known in ``NAMES``."""
    from zlib import crc32

    # Whole seconds: not every file system, and not every layer, has more.
    return crc32(b"%d/" % (mtime // 10**9) + name)


def names_record(owners: Mapping[int, bytes]) -> bytes:
    """The value of ``NAMES``: the ``OWNER`` of each, by its key."""
    keys: dict[bytes, list[int]] = {}
    for key, owner in owners.items():
        keys.setdefault(owner, []).append(key)
    return b"".join(
        _varint(len(owner)) + owner + _varint(len(its)) + struct.pack(f"<{len(its)}I", *its)
        for owner, its in keys.items()
    )


def names_of(record: bytes) -> dict[int, bytes]:
    """The owners that a value of ``NAMES`` tells of, as far as it is one."""
    found: dict[int, bytes] = {}
    at = 0
    with suppress(IndexError, struct.error):
        while at < len(record):
            size, at = _number(record, at)
            owner, at = record[at : at + size], at + size
            count, at = _number(record, at)
            keys = struct.unpack_from(f"<{count}I", record, at)
            at += 4 * count
            found.update(dict.fromkeys(keys, owner))
    return found


def add_names(folder: int, record: bytes) -> None:
    """Add what ``record`` tells of to what the open ``folder`` has.

    Raises:
        OSError: it can have no such attributes, or not so many.
    """
    before = names_in(folder)
    after = names_of(before or b"") | names_of(record)
    if before is None or after != names_of(before):
        os.setxattr(folder, NAMES, names_record(after))


def names_in(folder: int) -> bytes | None:
    """The value of ``NAMES`` of an open folder; None where it has none."""
    try:
        return os.getxattr(folder, NAMES)
    except OSError:
        return None


def status_record(uid: int, gid: int, mode: int, device: int = 0) -> bytes:
    """The value of ``STATUS`` for what has this ``st_mode`` and, if it is a device, ``st_rdev``."""
    kind = "file"
    for name, its_format in _DEVICES.items():
        if stat.S_IFMT(mode) == its_format:
            kind = f"{name}-{os.major(device)}-{os.minor(device)}"
    return f"{uid}:{gid}:0{stat.S_IMODE(mode):o}:{kind}".encode()


def recorded_mode(record: bytes, status: os.stat_result) -> tuple[int, tuple[int, int]]:
    """The ``st_mode`` of an inode with ``status``, and its device's numbers, by the record.

    What was written to since is no device any more.
    """
    with suppress(ValueError):
        _, _, octal, kind = record.decode().split(":")
        name, *numbers = kind.split("-")
        if name in _DEVICES and not status.st_size:
            major, minor = map(int, numbers)
            return _DEVICES[name] | stat.S_IMODE(status.st_mode), (major, minor)
        mode = int(octal, 8)
        if name == "file" and stat.S_IMODE(status.st_mode) == mode | _READABLE:
            return stat.S_IFREG | mode, (0, 0)
    return status.st_mode, (0, 0)


def is_record(attribute: str) -> bool:
    """Whether an attribute of that name is a record."""
    return attribute in (OWNER, STATUS) or attribute.startswith(KEPT)


def own_attributes(attributes: Mapping[str, bytes]) -> dict[str, bytes]:
    """The attributes that the inode would have had."""
    found = {
        name.removeprefix(KEPT): value
        for name, value in attributes.items()
        if name not in (OWNER, STATUS, NAMES)
    }
    return dict(sorted(found.items()))


def readable(mode: int) -> int:
    """``mode``, with as much more as its owner needs to read it."""
    return mode | _READABLE


def can_record(folder: int) -> bool:
    """Whether files in the open ``folder`` can have such attributes."""
    try:
        os.setxattr(folder, STATUS, b"0:0:00:dir")
        os.removexattr(folder, STATUS)
    except OSError:
        return False
    return True


def _number(record: bytes, at: int) -> tuple[int, int]:
    """The variable-length number at ``at``, and where it ends; IndexError where it does not."""
    value = shift = 0
    while True:
        byte = record[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return value, at


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
