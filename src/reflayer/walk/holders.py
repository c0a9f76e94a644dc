"""Which folders of a file system any process has: as its current one, its root, open, or watched.

Paths do not tell, since other mount namespaces have others; device and inode number do. Who has a
file open is not found here: a lease tells that of each file, be it open by whatever (fcntl(2)).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from reflayer.linux.kcmp import FILES, FS, share
from reflayer.linux.libc import AT_FDCWD, identity_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    _Identity = tuple[int, int, int, int]  # as of ``identity_at``

_FIRST_NAMESPACE = "pid:[4026531836]"  # linux/proc_ns.h: PROC_PID_INIT_INO
_INIT = "1"
_CHILDREN = "/proc/2/task/2/children"  # kthreadd's
_ROUNDS = 100  # after which it cannot be told: somebody begins processes without end
_LINE = 4096  # bytes: more than proc_pid_stat(5) has
_EXITING = 0x4  # PF_EXITING
_KERNELS = 0x200000  # PF_KTHREAD
_NO_CARRIERS = frozenset({stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK})
_CARRIERS = ("socket:", "anon_inode:[io_uring]")  # what may have descriptors that no process has
_CARRIED = re.compile(rb"^(?:scm_fds|UserFiles):\s*[1-9]", re.M)  # proc_pid_fdinfo(5)
_PATH = re.compile(rb"^flags:\s*\d*[1357]\d{7}$", re.M)  # O_PATH: no lease is refused for it
_MOUNTS = "mnt:"
_ROOT = re.compile(rb"^\d+ \d+ \S+ \S+ / ", re.M)
_NUMBER = re.compile(rb"^\d+", re.M)
_WATCHES = ("anon_inode:inotify", "anon_inode:[fanotify]")  # inotify(7), fanotify(7)
_WATCHED = re.compile(rb"^(?:inotify|fanotify) .*?ino:([0-9a-f]+) sdev:([0-9a-f]+) ", re.M)
_MINORS = 20  # bits of a device number, as the kernel has it (linux/kdev_t.h)
_KEPT = re.compile(rb" (mnt:\[\d+\]) ")  # as the root of a mount


class _UnknownError(Exception):
    """It cannot be told."""


def held_folders(device: int, names: Collection[bytes]) -> frozenset[int] | None:
    """The inode numbers of the folders on ``device`` that any process of this machine has.

    Args:
        device: ``st_dev`` of the folders.
        names: what no path in the mounts of a process may have in it: what is mounted from there
            or on it can be entered at any time.

    Returns:
        The numbers; None where it cannot be told: not all processes can be looked at, a mount has
        one of the names, mounts are kept that no process sees, or only such whose root is below
        them (chroot(2)), a folder is open whose mount is in no namespace (open_tree(2)): others may
        be mounted below it; descriptors are on their way from one process to another, or a FIFO or
        device of that file system is open, or a file by ``O_PATH``; or processes begin faster than
        they can be looked at.
    """
    try:
        if os.readlink("/proc/self/ns/pid") != _FIRST_NAMESPACE:
            return None
        look = _Look(device, names)
        seen: set[str] = set()
        # One that was begun meanwhile may have what another had that has ended since.
        for _ in range(_ROUNDS):
            new = {*filter(str.isdecimal, os.listdir("/proc"))} - seen
            if not new:
                break
            for pid in new:
                look.at_process(pid)
            seen |= new
        else:
            return None
    except (OSError, _UnknownError):
        return None
    is_all_seen = look.kept <= look.seen and look.open <= look.mounts
    return frozenset(look.found) if is_all_seen else None


class _Look:
    """A look at all processes.

    Attributes:
        found: the folders' inode numbers.
        seen: the mount namespaces that were looked at from their own root, so with all mounts.
        kept: those that are mounted or open, or that a process is in.
        mounts: the numbers of all mounts that were seen.
        open: those of the folders that are open. Who has detached where he came from may still be
            in a folder of it, as his current one: nothing is mounted there any more (umount2(2)).
    """

    def __init__(self, device: int, names: Collection[bytes]) -> None:
        self.found: set[int] = set()
        self.seen: set[str] = set()
        self.kept: set[str] = set()
        self.mounts: set[int] = set()
        self.open: set[int] = set()
        self._device = device
        self._names = names
        self._tables: set[tuple[str, _Identity]] = set()  # mount namespaces, seen from a root
        self._threads = _kernel_threads()

    def at_process(self, pid: str) -> None:
        """Look at what all threads of a process have; those of the kernel have no folders."""
        try:
            if not _has_program(pid) and (
                pid in self._threads or _flags(f"/proc/{pid}") & _KERNELS
            ):
                return
            tasks = os.listdir(f"/proc/{pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            return
        for task in tasks:
            path = f"/proc/{pid}/task/{task}"
            is_first = task == pid
            try:
                if is_first or not share(int(pid), int(task), FS):
                    self._add(f"{path}/cwd")
                    self._look_at_mounts(path, self._add(f"{path}/root"))
                if is_first or not share(int(pid), int(task), FILES):
                    self._look_at_open(path)
            except OSError:
                # The first process may be out of everybody's sight, where the machine is a guest
                # that is run by it. It is nobody's who runs containers.
                if pid != _INIT and not _has_ended(path):
                    raise

    def _add(self, path: str, dir_fd: int = AT_FDCWD) -> _Identity:
        """Device, inode number, mode and mount of what ``path`` leads to, which is noted."""
        device, inode, mode, mount = identity_at(path.encode(), dir_fd)
        if device == self._device and stat.S_ISDIR(mode):
            self.found.add(inode)
        elif device == self._device and not stat.S_ISREG(mode):
            raise _UnknownError
        return device, inode, mode, mount

    def _look_at_mounts(self, task: str, root: _Identity) -> None:
        """The table in proc_pid_mountinfo(5) has what is below the root of a process alone."""
        namespace = os.readlink(f"{task}/ns/mnt")
        if (namespace, root) in self._tables:
            return
        with open(f"{task}/mountinfo", "rb") as file:
            table = file.read()
        if any(name in table for name in self._names):
            raise _UnknownError
        above = {identity_at(f"{task}/{path}".encode()) for path in ("root", "root/..")}
        if above == {root} and _ROOT.search(table):  # nothing is above it, and it is mounted
            self.seen.add(namespace)
        self.mounts.update(map(int, _NUMBER.findall(table)))
        self.kept.update(found.decode() for found in _KEPT.findall(table))
        self.kept.add(namespace)
        self._tables.add((namespace, root))

    def _refuse(self, told: re.Pattern[bytes], task: str, name: str) -> None:
        if told.search(_told(task, name)):
            raise _UnknownError

    def _add_watched(self, task: str, name: str) -> None:
        """Whoever watches a folder is told of each name in it."""
        for inode, device in _WATCHED.findall(_told(task, name)):
            major, minor = divmod(int(device, 16), 1 << _MINORS)
            if os.makedev(major, minor) == self._device:
                self.found.add(int(inode, 16))

    def _look_at_open(self, task: str) -> None:
        table = os.open(f"{task}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(table):
                with suppress(FileNotFoundError, ProcessLookupError):  # it is closed by now
                    device, _, mode, mount = self._add(name, table)
                    kind = stat.S_IFMT(mode)
                    if kind == stat.S_IFDIR and mount:
                        self.open.add(mount)
                    if kind == stat.S_IFREG and device == self._device:
                        self._refuse(_PATH, task, name)
                    if kind in _NO_CARRIERS or (kind == stat.S_IFREG and os.major(device)):
                        continue
                    what = _readlink(name, table)
                    if what.startswith(_MOUNTS):
                        self.kept.add(what)
                    elif what.startswith(_CARRIERS):
                        self._refuse(_CARRIED, task, name)
                    elif what in _WATCHES:
                        self._add_watched(task, name)
        finally:
            os.close(table)


def _told(task: str, name: str) -> bytes:
    """What proc_pid_fdinfo(5) tells of a descriptor."""
    with open(f"{task}/fdinfo/{name}", "rb") as file:
        return file.read()


def _readlink(name: str, folder: int) -> str:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""  # the path of something deep


def _kernel_threads() -> frozenset[str]:
    """The children of the first kernel thread: nearly all, told at once.

    Some are programs that the kernel has started (core(5)), and those have one.
    """
    with suppress(OSError), open(_CHILDREN, "rb", buffering=0) as file:  # CONFIG_PROC_CHILDREN
        return frozenset(file.read().decode().split())
    return frozenset()


def _has_program(pid: str) -> bool:
    """Whether it has one; what the kernel runs by itself has none, nor what has ended."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return False
    except OSError:  # it may not be seen
        pass
    return True


def _has_ended(task: str) -> bool:
    """Whether a thread ends or is gone: its files in proc(5) tell that by various errors."""
    try:
        return bool(_flags(task) & _EXITING)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _flags(task: str) -> int:
    """The kernel's flags of a thread (linux/sched.h)."""
    fd = os.open(f"{task}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, _LINE).rpartition(b") ")[2].split(b" ", 7)[6])
    finally:
        os.close(fd)
