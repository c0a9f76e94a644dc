"""Clone times: an inode whose ctime is older than the end of its clone was not touched since.

To tell what changed in a layer, both trees would have to be compared entry by entry, and files with
the same size and times by content: a program can set them back. But every change sets an inode's
ctime to the clock, and nobody can set a ctime (inode(7)). So the end of a clone is noted, and
``diff`` compares with the parent only what has a later ctime, in either of them.

Setting the machine's clock back does fake a ctime: so a note names the boot, and how far the clock
is from one that nobody can set. And an id can be used again: so it names the root's inode and birth
as well, and the parent. A note that is lost, or does not hold, costs a closer look and no more.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from functools import cache

from reflayer.driver.home import CLONED, opened, unlink, write_new
from reflayer.driver.trash import discard
from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # random(4)
_OWN_CLOCK = frozenset({"xfs", "btrfs", "ext4", "tmpfs", "bcachefs", "f2fs", "zfs"})  # no server's
_STILL = 500_000  # nanoseconds: setting the clock by less deceives nobody
# What compares trees takes a time by another clock, and allows for one that is so much behind.
_BEHIND = 20_000_000 - _STILL  # nanoseconds (archive.tree_diff)
_CLOCK_REALTIME_COARSE = 5  # time.h; clock_gettime(2)
_MUCH = 50  # ticks


def note(home: str, path: str, parent: str) -> str | None:
    """Note that the build ``path`` is a complete clone of layer ``parent`` by now.

    Returns:
        The note's path, for ``keeping``; None where times do not tell what was touched.
    """
    boot = boot_id()
    root = _root(path)
    if boot is None or root is None:
        return None
    cloned = _complete_at(root[1])
    folder = f"{home}/{CLONED}/{boot}"
    record = f"{folder}/{os.path.basename(path)}"
    content = f"{root[0]} {root[1]} {cloned} {_clock_offset()} {parent}".encode()
    with failing(record, "write"):
        try:
            write_new(record, content)
        except FileNotFoundError:
            _begin_boot(home, boot)
            write_new(record, content)
    return record


def _complete_at(begun: int) -> int:
    """When a clone is complete, by the clock that stamps inodes: if it is large, after all stamps.

    That clock stands still for a tick, some milliseconds. What the clone did in the last one has
    the stamp that a change right after it would have, too, and is always looked at closely. Where
    the clone took much longer than a tick, waiting for the next one is cheaper.
    """
    now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    tick = time.clock_getres(_CLOCK_REALTIME_COARSE)
    if now - begun < _MUCH * tick * 1e9:
        return now
    while (later := time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)) == now:
        time.sleep(tick / 8)
    return later


@contextmanager
def keeping(record: str | None, id: str) -> Iterator[None]:
    """Let the note be that of layer ``id``, which the block publishes; take it away if it fails."""
    try:
        yield
        if record is not None:
            with failing(record, "rename"):
                os.rename(record, f"{os.path.dirname(record)}/{id}")
            record = None
    finally:
        if record is not None:
            unlink(record)  # no layer has come of it


def hand_over(record: str, home: str, id: str) -> None:
    """Let the note at ``record``, if there is one, be that of layer ``id``."""
    with failing(record, "rename"), suppress(FileNotFoundError):
        os.rename(record, f"{home}/{CLONED}/{boot_id()}/{id}")


def forget(home: str, id: str) -> None:
    """Take away the note of layer ``id``, if there is one, before the layer goes."""
    boot = boot_id()
    if boot is not None:
        unlink(f"{home}/{CLONED}/{boot}/{id}")


def origin(home: str, id: str, path: str) -> tuple[str, float] | None:
    """The layer that ``id`` at ``path`` was a complete clone of, and when, in seconds since 1970.

    None where that is not known, or times do not tell what was touched since.
    """
    boot = boot_id()
    if boot is None:
        return None
    record = f"{home}/{CLONED}/{boot}/{id}"
    with failing(record, "read"):
        try:
            with open(record) as file:
                *numbers, noted = file.read().split(" ")
            inode, birth, cloned, offset = map(int, numbers)
        except (FileNotFoundError, ValueError):
            return None
    if abs(offset - _clock_offset()) > _STILL or _root(path) != (inode, birth):
        return None
    return noted, (cloned + _BEHIND) / 1e9


def _begin_boot(home: str, boot: str) -> None:
    """Make the folder for the notes of this boot; those of earlier ones hold no more."""
    os.makedirs(f"{home}/{CLONED}/{boot}", 0o700, exist_ok=True)
    for name in os.listdir(f"{home}/{CLONED}"):
        if name != boot:
            discard(f"{home}/{CLONED}/{name}", home)


def _root(path: str) -> tuple[int, int] | None:
    """Inode number and birth of the folder; None where they tell it not from every other."""
    from reflayer.linux.libc import birth_time
    from reflayer.linux.statfs import file_system_name

    with opened(path) as fd, failing(path, "look at"):
        birth = birth_time(fd) if file_system_name(fd) in _OWN_CLOCK else None
        return None if birth is None else (os.fstat(fd).st_ino, birth)


@cache
def boot_id() -> str | None:
    """What tells this boot of the machine from every other; None where nothing does."""
    with suppress(OSError), open(_BOOT_ID) as file:  # there may be no proc(5)
        return file.read().strip()
    return None


def _clock_offset() -> int:
    """Nanoseconds from the clock that nobody can set to the one that stamps files.

    Both are slewed together, so that only setting the clock changes it (clock_gettime(2)).
    """
    readings = []
    for _ in range(3):  # the process may be interrupted between two of them
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        now = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        readings.append((after - before, now - before))
    return min(readings)[1]
