"""Times for people and for programs."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_UNITS = (  # from so many seconds on, in this unit
    (2 * 365 * _DAY, 365 * _DAY, "years"),
    (2 * 30 * _DAY, 30 * _DAY, "months"),
    (2 * 7 * _DAY, 7 * _DAY, "weeks"),
    (2 * _DAY, _DAY, "days"),
    (2 * _HOUR, _HOUR, "hours"),
    (2 * _MINUTE, _MINUTE, "minutes"),
    (2, 1, "seconds"),
)


def ago(then: float) -> str:
    """How long ago ``then`` was, in seconds since 1970, as Docker says it: ``2 hours ago``."""
    passed = time.time() - then
    if passed < 0:
        return "in the future"
    for start, unit, name in _UNITS:
        if passed >= start:
            if _HOUR <= passed < 2 * _HOUR:
                return "About an hour ago"
            if _MINUTE <= passed < 2 * _MINUTE:
                return "About a minute ago"
            return f"{int(passed / unit)} {name} ago"
    return "1 second ago" if passed >= 1 else "Less than a second ago"


def timestamp(then: float) -> str:
    """``then``, in seconds since 1970, as RFC 3339 has it."""
    return datetime.fromtimestamp(then, UTC).isoformat().replace("+00:00", "Z")


def seconds_of(text: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None where it is none."""
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):  # whoever built the image wrote what he liked
        return None
