"""user_namespaces(7): an ordinary user gets the ids that /etc/subuid and /etc/subgid give him.

Inside, he is root over them: 0 is himself, and from 1 on follow his ranges, as with Podman and
buildah. The kernel lets nobody map more than himself, so newuidmap(1) does it, which the package
uidmap brings.
"""

from __future__ import annotations

import os

from reflayer.contexts import contextmanager, suppress
from reflayer.errors import ReflayerError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NEWNS, _NEWUSER, _NEWPID = 0x20000, 0x10000000, 0x20000000  # CLONE_NEW* of linux/sched.h
_NS_GET_PARENT = 0xB702  # ioctl_ns(2)
ALL_IDS = 2**32 - 1
"""How many there are; the one that is missing means none (chown(2))."""

_KINDS = (("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap"))
_FORBIDDEN = (  # what may forbid them, the value that does, and what that is called
    ("kernel/unprivileged_userns_clone", "0"),
    ("user/max_user_namespaces", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
)
_failed: list[NamespaceError] = []  # for which there is none in this process
# Of capabilities(7): CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD and SETFCAP.
_ALL_POWERS = sum(1 << number for number in (0, 1, 3, 4, 21, 27, 31))


class NamespaceError(Exception):
    """There is no namespace to be had; the text is why, and how to get one."""


class ForeignError(NamespaceError):
    """Something belongs to a user or group who would be nobody in the namespace."""

    def __init__(self, path: str, id: int) -> None:
        super().__init__(
            f"{printable(path)} belongs to user or group {id}, who is not in the namespace: "
            "reflayer copy --ownership ignore makes a copy that is this user's"
        )


def enter(source: str = "") -> None:
    """Bring this process, which has one thread, into a new user namespace with all of its ids.

    It stays the same process: its children, terminal, signals and status are as before. A child
    has the namespace until the ids are in it, so whatever fails, nothing has changed here.

    Args:
        source: a folder in which all owners and groups have to be among the ids.

    Raises:
        NamespaceError: why not; ForeignError where it is for ``source``.
    """
    try:
        with _made(source) as namespace:
            try:
                _setns(namespace)
            except OSError as error:
                raise NamespaceError(f"setns: {error.strerror}{_forbidden()}") from error
    except NamespaceError as error:
        _failed.append(error)
        raise


def enter_towards(pid: int) -> None:
    """Bring this process, which has one thread, one user namespace nearer to that of another.

    A container with a map of its own is in a second one, whose root has nothing of the store.

    Raises:
        OSError: it has ended, or is in none that is below ours and of this user's.
    """
    import fcntl

    ours = os.stat("/proc/self/ns/user")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while not os.path.samestat(os.fstat(above := fcntl.ioctl(namespace, _NS_GET_PARENT)), ours):
            os.close(namespace)
            namespace = above
        os.close(above)
        _setns(namespace)
    finally:
        os.close(namespace)


def has_ranges() -> bool:
    """Whether this user has ranges of ids, and ``enter`` has not failed in this process."""
    try:
        return not _failed and all(_map(file) for file, _ in _KINDS)
    except NamespaceError:
        return False


def why_none() -> str:
    """Why ``enter`` would fail; empty where it would not."""
    try:
        with _made():
            return ""
    except NamespaceError as error:
        return str(error)


@contextmanager
def _made(source: str = "") -> Iterator[int]:
    """A descriptor of a new namespace with all ids, which a child is in."""
    wanted = [(program, _map(file)) for file, program in _KINDS]
    if source:
        _look_for_foreign(source, *(words for _, words in wanted))
    with _child_in_namespace() as child:
        _map_ids(child, wanted)
        with _opened(child) as namespace:
            yield namespace


@contextmanager
def with_one_id() -> Iterator[int]:
    """A descriptor of a new namespace with one id, for who may map any: root of the machine.

    Raises:
        NamespaceError: there are no namespaces.
        OSError: the id cannot be mapped.
    """
    with _child_in_namespace() as child:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write("0 1000 1")
        with _opened(child) as namespace:
            yield namespace


@contextmanager
def _child_in_namespace() -> Iterator[int]:
    """The number of a child that is in a new namespace, which has no ids yet."""
    if not hasattr(os, "setns"):  # before Python 3.12; now, for the child as well
        import reflayer.linux.libc  # noqa: F401
    told, tell = os.pipe()
    waiting, end = os.pipe()
    child = os.fork()
    if not child:
        _wait_in_namespace(tell, waiting, end)
    try:
        os.close(tell)
        os.close(waiting)
        if reason := os.read(told, 200).decode():
            raise NamespaceError(f"{reason}{_forbidden()}")
        yield child
    finally:
        os.close(told)
        os.close(end)
        os.waitpid(child, 0)


@contextmanager
def _opened(child: int) -> Iterator[int]:
    """A descriptor of the namespace that a child is in."""
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _wait_in_namespace(tell: int, waiting: int, end: int) -> None:
    """The child: be in a new namespace until the parent has closed its ``end``."""
    try:
        os.close(end)
        try:
            _unshare()
        except OSError as error:
            os.write(tell, f"unshare: {error.strerror}".encode())
        os.close(tell)
        os.read(waiting, 1)
    finally:
        os._exit(0)


def _map(file: str) -> list[str]:
    """The arguments of newuidmap(1): this user as 0, and what ``file`` gives him from 1 on."""
    id = os.getuid() if file == _KINDS[0][0] else os.getgid()
    words, next_id = ["0", str(id), "1"], 1
    for start, size in _ranges(file):
        words += (str(next_id), str(start), str(size))
        next_id += size
    if next_id == 1:
        user = _user_name() or str(os.getuid())
        raise NamespaceError(
            f"{file} has no line for user {user}: root adds one by "
            f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        )
    return words


def refuse_foreign(source: str) -> None:
    """Raise a ReflayerError where something in a folder would be nobody's in the namespace."""
    try:
        _look_for_foreign(source, *(_map(file) for file, _ in _KINDS))
    except ForeignError as error:
        raise ReflayerError(str(error)) from None


def _look_for_foreign(source: str, uids: list[str], gids: list[str]) -> None:
    """As far as this user may look into it."""
    known: set[tuple[int, int]] = set()

    def look(path: str, status: os.stat_result) -> None:
        owner = status.st_uid, status.st_gid
        if owner not in known:
            for id, words in zip(owner, (uids, gids), strict=True):
                ranges = zip(map(int, words[1::3]), map(int, words[2::3]), strict=True)
                if not any(start <= id < start + size for start, size in ranges):
                    raise ForeignError(path, id)
            known.add(owner)

    with suppress(OSError):  # which the command will tell
        look(source, os.stat(source))
    folders = [source]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as scan:
            for entry in scan:
                look(entry.path, entry.stat(follow_symlinks=False))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _ranges(file: str) -> list[tuple[int, int]]:
    """First ids and sizes of what this user has (subuid(5))."""
    found: list[tuple[int, int]] = []
    with suppress(OSError), open(file, encoding="utf-8", errors="surrogateescape") as lines:
        names = (str(os.getuid()), _user_name())
        for line in lines:
            name, _, rest = line.strip().partition(":")
            start, _, size = rest.partition(":")
            if name and name in names and start.isdecimal() and size.isdecimal() and int(size):
                found.append((int(start), int(size)))
    return found


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _map_ids(pid: int, wanted: list[tuple[str, list[str]]]) -> None:
    """Give the namespace of process ``pid`` its ids; both programs run at once."""
    read, write = os.pipe()
    started = []
    actions = [(os.POSIX_SPAWN_DUP2, write, 2)]
    missing = ""
    for program, words in wanted:
        try:
            command = [program, str(pid), *words]
            started.append(os.posix_spawnp(program, command, os.environ, file_actions=actions))
        except OSError:
            missing = f"{program} is missing: install the package uidmap (or shadow-utils)"
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as told:
        reason = " ".join(told.read().split())
    states = [os.waitpid(one, 0)[1] for one in started]
    if missing or any(states):
        raise NamespaceError(missing or reason or f"{wanted[0][0]} failed")


def _unshare() -> None:
    if hasattr(os, "unshare"):
        os.unshare(_NEWUSER)
    else:  # before Python 3.12
        from reflayer.linux.libc import LIBC, checked

        checked(LIBC.unshare(_NEWUSER))


def _setns(namespace: int) -> None:
    if hasattr(os, "setns"):
        os.setns(namespace, _NEWUSER)
    else:
        from reflayer.linux.libc import LIBC, checked

        checked(LIBC.setns(namespace, _NEWUSER))


def why_no_namespaces() -> str:
    """Why no process can be started from here in namespaces of its own; empty where one can.

    Root needs no user namespace for it, but may be root of a container that is allowed less.
    """
    is_root = os.geteuid() == 0
    import reflayer.linux.libc  # for the child as well

    child = os.fork()
    if not child:
        status = 1
        try:
            kinds = _NEWPID | _NEWNS | (0 if is_root else _NEWUSER)
            reflayer.linux.libc.checked(reflayer.linux.libc.LIBC.unshare(kinds))
            status = 0
        finally:
            os._exit(status)
    if not os.waitpid(child, 0)[1]:
        return ""
    forbidden = "" if is_root else _forbidden().removeprefix(": ")
    more = " --cap-add SYS_ADMIN --cap-add NET_ADMIN" if is_root else ""
    return "no process may have namespaces of its own here: " + (
        forbidden
        or "if this is a container, it has to be started with --privileged, or with "
        f"--security-opt seccomp=unconfined{more}"
    )


def _forbidden() -> str:
    """Which setting of the system forbids namespaces, as the end of a sentence."""
    for name, value in _FORBIDDEN:
        with suppress(OSError), open(f"/proc/sys/{name}") as file:
            if file.read().strip() == value:
                setting = name.replace("/", ".")
                better = "1" if value == "0" and name.startswith("kernel") else "0"
                if name.startswith("user"):
                    better = "10000"
                return f": root lets users have namespaces by sysctl {setting}={better}"
    return ""


def outer_user() -> int:
    """The user who this is outside of a namespace of his own."""
    if is_of_user():
        return int(id_maps()[0].split()[1])
    return os.geteuid()


def id_maps() -> tuple[str, ...]:
    """The maps of users and of groups of the namespace that this process is in."""
    maps = []
    for name in ("uid_map", "gid_map"):
        with suppress(OSError):
            maps.append(", ".join(" ".join(line.split()) for line in id_map(name).splitlines()))
    return tuple(maps)


def id_map(name: str) -> str:
    """What ``/proc/self`` has as ``uid_map`` or ``gid_map``; OSError: there is no proc(5)."""
    with open(f"/proc/self/{name}", "rb", 0) as file:
        return file.read().decode()


def covers(ours: str, others: str) -> bool:
    """Whether every id of other maps is the same in ours, both ``id_maps`` joined by ``; ``."""
    for wide, narrow in zip(ours.split("; "), others.split("; "), strict=True):
        ranges = [[int(word) for word in one.split()] for one in wide.split(", ")]
        for one in narrow.split(", "):
            first, outer, count = map(int, one.split())
            while count > 0:
                ends = [
                    start + size
                    for start, start_outer, size in ranges
                    if start <= first < start + size and start_outer - start == outer - first
                ]
                if not ends:
                    return False
                known = min(count, ends[0] - first)
                first, outer, count = first + known, outer + known, count - known
    return True


def is_of_user() -> bool:
    """Whether this is root of a namespace without a root directory of its own: a user's."""
    return os.geteuid() == 0 and os.stat("/").st_uid != 0


def may_all() -> bool:
    """Whether this process can keep whatever a tree has: it is root of the whole machine."""
    if os.geteuid() != 0:
        return False
    try:
        if id_map("uid_map").split() != ["0", "0", str(ALL_IDS)]:
            return False
        with open("/proc/self/status", "rb", 0) as file:
            powers = file.read().partition(b"\nCapEff:")[2].split(maxsplit=1)
    except OSError:
        return True
    return not powers or int(powers[0], 16) & _ALL_POWERS == _ALL_POWERS
