"""statx(2): when a file was made, which ``os.stat`` leaves out."""

from __future__ import annotations

import ctypes
import struct

from reflayer.linux.libc import LIBC, checked

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STRUCT = 256  # bytes of struct statx
_MASK = struct.Struct("=I")
_BTIME = struct.Struct("=80xqI")  # seconds, nanoseconds


def birth_time(fd: int) -> int | None:
    """When the open file ``fd`` was made, in nanoseconds since the epoch; None where not kept.

    Raises:
        OSError: as statx(2) says.
    """
    buffer = ctypes.create_string_buffer(_STRUCT)
    checked(
        LIBC.statx(
            ctypes.c_int(fd),
            ctypes.c_char_p(b""),
            ctypes.c_int(_AT_EMPTY_PATH),
            ctypes.c_uint(_STATX_BTIME),
            buffer,
        )
    )
    if not _MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(buffer)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
