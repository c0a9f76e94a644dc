"""The headers of a tar's entries: ustar, with a PAX header before those that it cannot hold.

POSIX pax, "ustar Interchange Format" and "pax Extended Header". What is written depends on the
entry alone: no names of users, no time of writing, records in the order of their keys.
"""

from __future__ import annotations

from functools import lru_cache

from reflayer.archive.tar_header import (
    BLOCK,
    FIELDS,
    SECOND,
    USTAR_MAGIC,
    byte_sum,
    format_nanoseconds,
    format_records,
    padding,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

END = bytes(2 * BLOCK)
"""What ends a tar."""

_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777  # and the latest time, in seconds
_NAME, _PREFIX = 100, 155  # bytes
_SPACES = b" " * 8
_CHECKSUM = slice(148, 156)
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")


def headers(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    atime: int | None = None,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    records: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """All blocks that come before the data of one entry.

    Args:
        name: its path; a folder's ends with a slash.
        kind: one of the types in ``reflayer.archive.tar_header``.
        mode: permission bits with setuid, setgid and sticky.
        uid, gid: owner and group.
        size: bytes of data that follow.
        mtime, atime: nanoseconds since the epoch; without an access time it is ``mtime``.
        target: where a hard or symbolic link points.
        device: major and minor number.
        records: further records for its PAX header.
    """
    pax = dict(records) if records else {}
    prefix, short = _split(name)
    if prefix is None or _is_foreign(name):
        pax.setdefault(b"path", name)
    if len(target) > _NAME or _is_foreign(target):
        pax[b"linkpath"] = target
    if pax and not all(_is_text(pax.get(key, b"")) for key in _NAMES):
        pax[b"hdrcharset"] = b"BINARY"  # else libarchive refuses them
    if uid > _LARGEST_ID:
        pax[b"uid"] = b"%d" % uid
    if gid > _LARGEST_ID:
        pax[b"gid"] = b"%d" % gid
    if size > _LARGEST_SIZE:
        pax[b"size"] = b"%d" % size
    seconds, fraction = divmod(mtime, SECOND)
    if fraction or not 0 <= seconds <= _LARGEST_SIZE:
        pax[b"mtime"] = format_nanoseconds(mtime)
        seconds = min(max(seconds, 0), _LARGEST_SIZE)
    if atime is not None and atime != mtime:
        pax[b"atime"] = format_nanoseconds(atime)
    block = FIELDS.pack(
        short,
        b"%07o" % mode,
        b"%07o" % (uid if uid <= _LARGEST_ID else 0),
        b"%07o" % (gid if gid <= _LARGEST_ID else 0),
        b"%011o" % (size if size <= _LARGEST_SIZE else 0),
        b"%011o" % seconds,
        _SPACES,
        kind,
        target[:_NAME],
        USTAR_MAGIC,
        b"00",
        b"%07o" % device[0],
        b"%07o" % device[1],
        prefix or b"",
    )
    total = byte_sum(block[:256]) + byte_sum(block[256:])
    block = block[: _CHECKSUM.start] + b"%06o\0 " % total + block[_CHECKSUM.stop :]
    if not pax:
        return block
    data = format_records(pax)
    return _pax_header(len(data)) + data + padding(len(data)) + block


@lru_cache(maxsize=512)
def _pax_header(size: int) -> bytes:
    return headers(b"././@PaxHeader", b"x", mode=0o644, size=size)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """Prefix and name as ustar has them; None and the beginning where they do not hold it."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.find(b"/", max(len(name) - _NAME - 1, 1), -1)
    if 0 < cut <= _PREFIX:
        return name[:cut], name[cut + 1 :]
    return None, name[:_NAME]


def _is_foreign(name: bytes) -> bool:
    """Whether a name is text beyond ASCII: PAX tells that it is UTF-8.

    What is no text at all stays in the plain header if it can: nobody takes it for any there.
    """
    return not name.isascii() and _is_text(name)


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
