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
from itertools import chain

from reflayer.driver.home import CLONED, layer_path, opened, unlink, write_new
from reflayer.driver.trash import discard
from reflayer.errors import failing
from reflayer.record import record as record_
from reflayer.workers.lock import passing_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # random(4)
_OWN_CLOCK = frozenset({"xfs", "btrfs", "ext4", "tmpfs", "bcachefs", "f2fs", "zfs"})  # no server's
_STILL = 500_000  # nanoseconds: setting the clock by less deceives nobody
# What compares trees takes a time by another clock, and allows for one that is so much behind.
_BEHIND = 20_000_000 - _STILL  # nanoseconds (archive.tree_diff)
_CLOCK_REALTIME_COARSE = 5  # time.h; clock_gettime(2)
_MUCH = 50  # ticks


@record_
class Clone:
    """A clone, by its note.

    Attributes:
        layer: of which it is one.
        inode: of its root.
        begun: when it was begun, in nanoseconds, by the clock that stamps inodes.
        cloned: when it was complete.
        made_by: how, and by whom: ``spares.key``.
        folders: what ``copy_tree`` has told of its folders.
    """

    layer: str
    inode: int
    begun: int
    cloned: int
    made_by: str
    folders: list[int]


def clone_details(made_by: str | None, folders: list[int]) -> str:
    """What a note has besides, for what may be recycled: how a clone was made, and its folders."""
    return f"{made_by}\n{' '.join(map(str, folders))}" if made_by else ""


def note(
    home: str, path: str, parent: str, details: str = "", older: str = "", *, is_late: bool = False
) -> str | None:
    """Note that the build ``path`` is a complete clone of layer ``parent`` by now.

    Args:
        home: the driver's home.
        path: the build.
        parent: the layer.
        details: what ``clone_details`` tells of it.
        older: what ``older`` tells, where only the difference of ``parent`` was made since.
        is_late: most of it is far older; do not wait for the clock to go on.

    Returns:
        The note's path, for ``keeping``; None where times do not tell what was touched.
    """
    boot = boot_id()
    root = _root(path)
    if boot is None or root is None:
        return None
    cloned = _complete_at(home, time.time_ns() if is_late else root[1])
    folder = f"{home}/{CLONED}/{boot}"
    record = f"{folder}/{os.path.basename(path)}"
    if details:
        older = f"{parent} {cloned} {details}"
    content = f"{root[0]} {root[1]} {cloned} {_clock_offset()} {parent}\n{older}".encode()
    with failing(record, "write"):
        try:
            write_new(record, content)
        except FileNotFoundError:
            _begin_boot(home, boot)
            write_new(record, content)
    return record


def renote(home: str, id: str, parent: str, cloned: int, paths: Mapping[bytes, int]) -> None:
    """Note that layer ``id`` was the same as ``parent`` at ``cloned``, by the clock of inodes.

    ``paths`` has the inodes of its folders then.
    """
    path = layer_path(home, id)
    boot, root = boot_id(), _root(path)
    if boot is None or root is None:
        return
    beside = f"{home}/{CLONED}/{boot}/.{passing_name(id)}"
    with failing(beside, "write"), suppress(FileNotFoundError):
        told = [b"%d" % cloned, *chain(*((path, b"%d" % at) for path, at in paths.items()))]
        write_new(beside, b"\0".join(told))
        os.rename(beside, _paths_of(home, id))
    record = f"{home}/{CLONED}/{boot}/{passing_name(id)}"
    with keeping(record, id), failing(record, "write"):
        first = older(home, id)
        content = f"{root[0]} {root[1]} {cloned} {_clock_offset()} {parent}\n{first}".encode()
        try:
            write_new(record, content)
        except FileNotFoundError:
            _begin_boot(home, boot)
            write_new(record, content)


def folder_paths(home: str, id: str, cloned: int) -> dict[bytes, int]:
    """The folders that layer ``id`` had at ``cloned``, as ``renote`` was told of them."""
    path = _paths_of(home, id)
    with failing(path, "read"), suppress(FileNotFoundError), open(path, "rb") as file:
        when, *told = file.read().split(b"\0")
        if when == b"%d" % cloned:
            return dict(zip(told[::2], map(int, told[1::2]), strict=True))
    return {}


def _paths_of(home: str, id: str) -> str:
    return f"{home}/{CLONED}/{boot_id()}/.{id}"


def now() -> int:
    """The time by the clock that stamps inodes, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def later(folder: str) -> int:
    """A time after all stamps of a file system until now, and not after those to come.

    The clock that stamps inodes goes on in ticks, of some milliseconds, and this waits for the
    next one, but where a stamp itself tells.

    Args:
        folder: on that file system.
    """
    wanted = _stamp(folder)
    if wanted is None:
        wanted = time.time_ns()
        while now() < wanted:
            time.sleep(time.clock_getres(_CLOCK_REALTIME_COARSE) / 8)
    return wanted


def _stamp(folder: str) -> int | None:
    """A stamp that is given now, if it is later than those before and none to come is earlier.

    An inode whose ctime was looked at gets a finer one with its next change, and from then on no
    other gets an earlier one (Linux 6.13, multigrain timestamps). Or a tick has just begun.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    files: list[int] = []
    with suppress(OSError):
        try:
            files.append(os.open(folder, flags, 0o600))
            first = os.fstat(files[0]).st_ctime_ns
            os.fchmod(files[0], 0o400)
            stamp = os.fstat(files[0]).st_ctime_ns
            files.append(os.open(folder, flags, 0o600))
            if first < stamp <= os.fstat(files[1]).st_ctime_ns:
                return stamp
        finally:
            for file in files:
                os.close(file)
    return None


def _complete_at(home: str, begun: int) -> int:
    """When a clone is complete, by the clock that stamps inodes: if it is large, after all stamps.

    What it did in the last tick has the stamp that a change right after it would have, too, and is
    always looked at closely, where no stamp tells. Where the clone took much longer than a tick,
    waiting for the next one is cheaper.
    """
    tick = time.clock_getres(_CLOCK_REALTIME_COARSE)
    if now() - begun < _MUCH * tick * 1e9:
        return _stamp(home) or now()
    return later(home)


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
        os.rename(record, note_path(home, id))


def forget(home: str, id: str) -> None:
    """Take away the note of layer ``id``, if there is one, before the layer goes."""
    boot = boot_id()
    if boot is not None:
        unlink(f"{home}/{CLONED}/{boot}/{id}")
        unlink(_paths_of(home, id))


def note_path(home: str, id: str) -> str:
    """Where the note of layer ``id`` is."""
    return f"{home}/{CLONED}/{boot_id()}/{id}"


def older(home: str, id: str) -> str:
    """What layer ``id`` was first a clone of, as a note has it; empty where that is not known."""
    with suppress(OSError, ValueError), open(note_path(home, id)) as file:
        return file.read().partition("\n")[2]
    return ""


def first_clone(record: str, path: str) -> Clone | None:
    """What ``path``, which the note ``record`` is of, was first a clone of; None as ``origin``."""
    found = _read(record, path)
    if found is None:
        return None
    with suppress(ValueError):
        first, folders, *_ = found[3]
        layer, cloned, made_by = first.split(" ")
        return Clone(layer, *found[1], int(cloned), made_by, [*map(int, folders.split())])
    return None


def origin(home: str, id: str, path: str) -> tuple[str, float] | None:
    """The layer that ``id`` at ``path`` was a complete clone of, and when, in seconds since 1970.

    None where that is not known, or times do not tell what was touched since.
    """
    found = same_as(home, id, path)
    return None if found is None else (found[0], (found[1] + _BEHIND) / 1e9)


def origins(home: str, id: str, path: str) -> dict[str, float]:
    """As ``origin``, and also what it was first a clone of."""
    first = first_clone(note_path(home, id), path)
    found = {} if first is None else {first.layer: (first.cloned + _BEHIND) / 1e9}
    last = origin(home, id, path)
    return found if last is None else found | {last[0]: last[1]}


def same_as(home: str, id: str, path: str) -> tuple[str, int] | None:
    """As ``origin``, in nanoseconds by the clock that stamps inodes."""
    found = _read(note_path(home, id), path)
    return None if found is None else (found[0], found[2])


def is_of(clone: Clone, path: str) -> bool:
    """Whether the folder ``path`` is that clone."""
    return _root(path) == (clone.inode, clone.begun)


def _read(record: str, path: str) -> tuple[str, tuple[int, int], int, list[str]] | None:
    """The parent, the root, the end of the cloning, and what else a note has, if it holds."""
    if boot_id() is None:
        return None
    with failing(record, "read"):
        try:
            with open(record) as file:
                line, *others = file.read().split("\n")
            *numbers, noted = line.split(" ")
            inode, birth, cloned, offset = map(int, numbers)
        except (FileNotFoundError, ValueError):
            return None
    if abs(offset - _clock_offset()) > _STILL or _root(path) != (inode, birth):
        return None
    return noted, (inode, birth), cloned, others


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
