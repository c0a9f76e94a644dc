"""Users and groups by name, as the container's own passwd(5) and group(5) have them.

The rules are Docker's: ``USER[:GROUP]``, each a name or a number. A number need not be in the
files; a user's other groups count where no group is given.
"""

from __future__ import annotations

from reflayer.errors import SandboxError, printable
from reflayer.record import record
from reflayer.sandbox import inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST = 2**31 - 1


@record
class User:
    """Who a process is."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # the first one among them
    home: str


def look_up(root: int, text: str) -> User:
    """The user that ``text`` means in the container with the folder ``root``; empty: root.

    Raises:
        SandboxError: there is no such user or group.
        OSError: a file cannot be read.
    """
    user, _, group = text.partition(":")
    uid = _number(user or "0")
    name, gid, home = "", 0, "/"
    for fields in _lines(root, "etc/passwd", 7):
        number, first = _number(fields[2]), _number(fields[3])
        if number is None or first is None:
            continue
        if number == uid if uid is not None else fields[0] == user:
            name, uid, gid, home = fields[0], number, first, fields[5] or "/"
            break
    if uid is None:
        if user.isdecimal():
            raise SandboxError(f"{printable(user)}: ids are from 0 to {_LARGEST}")
        raise SandboxError(f"unable to find user {printable(user)}: no such line in /etc/passwd")
    groups = []
    wanted = _number(group) if group else None
    if group and wanted is not None:
        gid = wanted
    elif group or name:
        for fields in _lines(root, "etc/group", 4):
            number = _number(fields[2])
            if number is None:
                continue
            if group and fields[0] == group:
                gid = number
                break
            if not group and name in fields[3].split(","):
                groups.append(number)
        else:
            if group:
                reason = "no such line in /etc/group"
                raise SandboxError(f"unable to find group {printable(group)}: {reason}")
    return User(uid, gid, tuple(dict.fromkeys((gid, *groups))), home)


def _lines(root: int, path: str, fields: int) -> Iterator[list[str]]:
    for line in inside.read(root, path).split("\n"):
        found = line.strip().split(":")
        if found[0] and not found[0].startswith("#"):
            yield found + [""] * (fields - len(found))


def _number(text: str) -> int | None:
    """An id; None where ``text`` is none, or a larger one than a process can have."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    return number if (number := int(text)) <= _LARGEST else None
