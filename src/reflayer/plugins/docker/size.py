"""Sizes as Docker's storage options give them."""

from __future__ import annotations

import re

from reflayer.plugins.docker.request import RequestError, shown

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE | re.ASCII)
_LONGEST = 100  # characters; int() takes 4,300, and float() makes infinity of 309
_POWERS = " kmgtp"
_MOST = (1 << 63) - 1  # Docker keeps it in an int64


def size_in_bytes(text: str) -> int:
    """``1G``, ``512 MiB``, ``1.5gb`` or plain bytes, in powers of 1024, as Docker's RAMInBytes.

    Raises:
        RequestError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        raise RequestError(f"invalid size: {shown(text)}")
    number, unit = match[1], match[2].lower()
    scale = 1024 ** _POWERS.index(unit) if unit else 1
    size = int(number) * scale if number.isdecimal() else int(float(number) * scale)
    if size > _MOST:
        raise RequestError(f"invalid size: {text!r} is more than {_MOST} bytes")
    return size
