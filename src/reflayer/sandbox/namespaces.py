"""A bundle run by namespaces of our own, where there is no other program for it.

It is a program of its own, since a process that has threads cannot make a user namespace. It enters
the namespaces (namespaces(7)), and starts the container's first process, which mounts what the spec
says beneath the root, makes that its own by pivot_root(2), gives up capabilities, and becomes the
command. All of it ends with the process that started it.

System calls are not filtered, and there are no cgroups: so devices cannot be made or opened.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
import time
from contextlib import suppress

from reflayer.linux.libc import LIBC, checked
from reflayer.linux.openat2 import RESOLVE_IN_ROOT, openat2
from reflayer.sandbox import inside
from reflayer.sandbox.first_process import is_first
from reflayer.sandbox.signals import PASSED_ON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Json = dict[str, Any]

_NAMESPACES = {  # linux/sched.h; in the order in which they are entered
    "user": 0x10000000,
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "mount": 0x00020000,
}
_FILES = {"network": "net", "mount": "mnt"}  # what they are called in /proc/PID/ns
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}  # as mount(2) and mount_setattr(2) have it
_STRICTATIME, _RELATIME = 0x1000000, 0x200000
_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # on every architecture
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_CAPABILITIES_3 = 0x20080522
_NUMBERS = {  # linux/capability.h, of those that containers get
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}  # fmt: skip
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_TRIES, _PAUSE = 500, 0.01  # seconds
_ENDED = 125  # as of what is not running
_STAGED = ("proc", "dev", "sys")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def main(verb: str, bundle: str, log_path: str, last: str) -> NoReturn:
    """Run the bundle in a folder, or a process of this file in it; exit as that does."""
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # with the bundle, when what ran had ended
        os._exit(_ENDED)
    status = 1
    try:
        checked(LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))
        status = _run(bundle, int(last), log) if verb == "run" else _execute(bundle, last, log)
    except OSError as error:
        _log(log, error)
    os._exit(status)


def _run(bundle: str, info: int, log: int) -> int:
    with open(f"{bundle}/config.json") as file:
        config: Json = json.load(file)
    kinds = {one["type"] for one in config["linux"]["namespaces"]}
    if "user" in kinds:
        _enter_user_namespace(config["linux"])
    flags = sum(flag for kind, flag in _NAMESPACES.items() if kind in kinds and kind != "user")
    _called("unshare", LIBC.unshare(flags))
    first = _fork(lambda: _become(config, f"{bundle}/stage", log), log)
    os.write(info, json.dumps({"child-pid": first}).encode())
    os.close(info)
    return _wait(first)


def _execute(bundle: str, path: str, log: int) -> int:
    """In what runs already, whose first process the bundle's file ``info`` tells."""
    pid = _first_process(f"{bundle}/info")
    with open(path) as file:
        process: Json = json.load(file)
    namespaces = []
    for kind, flag in _NAMESPACES.items():
        name = _FILES.get(kind, kind)
        theirs = f"/proc/{pid}/ns/{name}"
        if not os.path.samestat(os.stat(theirs), os.stat(f"/proc/self/ns/{name}")):
            namespaces.append((os.open(theirs, os.O_RDONLY | os.O_CLOEXEC), flag))
    if not is_first(pid):  # another one has its number
        raise OSError(errno.ESRCH, "it has ended", f"process {pid}")
    for fd, flag in namespaces:
        _called("setns", LIBC.setns(fd, flag))
    return _wait(_fork(lambda: _start(process, log), log))


def _first_process(info: str) -> int:
    """The process id that a file tells, as soon as it does."""
    for _ in range(_TRIES):
        with suppress(ValueError), open(info) as file:
            return int(json.loads(file.readline())["child-pid"])
        time.sleep(_PAUSE)
    raise OSError(errno.ESRCH, "nothing runs yet", info)


def _fork(then: Any, log: int) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED_ON, signal.SIGCHLD))
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        sys.meta_path.clear()  # what would be imported from now on is the container's
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # as Python found it, or as it has to be
        then()
    except OSError as error:
        _log(log, error)
    os._exit(status)


def _wait(pid: int) -> int:
    """Until the process ends; hand signals on to it, and return its status as a shell has it."""
    while True:
        got = signal.sigwaitinfo((*PASSED_ON, signal.SIGCHLD))
        if got.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
        elif got.si_code <= 0:  # from a process: a terminal sends it to both
            with suppress(ProcessLookupError):
                os.kill(pid, got.si_signo)


def _log(log: int, error: OSError) -> None:
    name = f"{error.filename}: " if error.filename else ""
    words = {"level": "error", "msg": f"{name}{error.strerror or error}"}
    os.write(log, json.dumps(words).encode() + b"\n")


def _called(what: str, result: int) -> None:
    try:
        checked(result)
    except OSError as error:
        error.filename = what
        raise


def _enter_user_namespace(linux: Json) -> None:
    _called("unshare: user namespace", LIBC.unshare(_NAMESPACES["user"]))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {linux['uidMappings'][0]['hostID']} 1"),
        ("gid_map", f"0 {linux['gidMappings'][0]['hostID']} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _become(config: Json, stage: str, log: int) -> NoReturn:
    """The container's first process: see to its root and its name, then to the command.

    What is mounted of the kernel's is mounted on a folder ``stage``, out of the container's reach,
    and comes into its root when what is hidden of it is hidden. Else whoever runs in the container
    already could move the folders away meanwhile, and keep one of which nothing is.
    """
    linux, root = config["linux"], config["root"]
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    _mount(root["path"], root["path"], "", _MS_BIND | _MS_REC)
    top = inside.open_root(root["path"])
    _restrict(top, _FLAGS["nodev"])
    staged = _stage(config, stage)
    for name in _STAGED:
        _mount_at(top, name, f"{stage}/{name}", "", _MS_BIND | _MS_REC)
    for mount in config["mounts"]:
        if not _is_staged(mount):
            _mount_one(top, mount)
    os.close(staged)
    os.fchdir(top)
    _called("pivot_root", LIBC.pivot_root(b".", b"."))
    _called("umount", LIBC.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    if root["readonly"]:
        here = inside.open_root("/")
        _restrict(here, _FLAGS["ro"], 0)
        os.close(here)
    os.close(top)
    socket.sethostname(config["hostname"])
    if {"type": "network"} in linux["namespaces"]:
        _set_up_loopback()
    _start(config["process"], log)


def _set_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("=16sh14x", b"lo", _IFF_UP))
        except OSError as error:
            error.filename = "set up lo"
            raise


def _stage(config: Json, folder: str) -> int:
    """Mount what is the kernel's, devices, and what is to be seen among those."""
    for name in _STAGED:
        os.makedirs(f"{folder}/{name}")
    stage = inside.open_root(folder)
    for mount in filter(_is_staged, config["mounts"]):
        if mount["type"] == "bind":
            make = inside.make_folder if os.path.isdir(mount["source"]) else inside.make_file
            make(stage, mount["destination"], [])
        _mount_one(stage, mount)
        if mount["destination"] == "/dev":
            _devices(stage)
    if config["process"]["terminal"]:
        _bind(stage, os.ttyname(0), inside.make_file(stage, "/dev/console", []))
    for path in config["linux"]["maskedPaths"]:
        _mask(stage, path)
    for path in config["linux"]["readonlyPaths"]:
        if inside.status(stage, path) is not None:
            _restrict_copy(stage, path)
    return stage


def _is_staged(mount: Json) -> bool:
    return mount["destination"].split("/")[1] in _STAGED


def _start(process: Json, log: int) -> NoReturn:
    """Become the process that a spec tells of.

    What runs in the container already must not get at this interpreter, which it could write to
    by /proc/PID/exe (CVE-2019-5736): so it cannot be traced until it is the command.
    """
    checked(LIBC.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0))
    user = process["user"]
    names = [name.removeprefix("CAP_") for name in process["capabilities"]["bounding"]]
    allowed = {_NUMBERS[name] for name in names if name in _NUMBERS}
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for number in range(last + 1):
        if number not in allowed:
            checked(LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0))
    may_enter = True
    try:
        os.chdir(process["cwd"])  # root may, even where the user may not; as runc does
    except PermissionError:
        may_enter = False
    with suppress(PermissionError):  # where no groups can be mapped there are none either
        os.setgroups(user.get("additionalGids", []))
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    kept = sum(1 << number for number in allowed) if user["uid"] == 0 else 0
    _set_capabilities(kept)
    checked(LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))
    os.umask(user.get("umask", 0o022))
    if process["terminal"] and os.getsid(0) == os.getpid():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if not may_enter:
        os.chdir(process["cwd"])
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:
            with suppress(OSError):  # the one that listed them is closed already
                os.set_inheritable(fd, False)
    env = dict(word.split("=", 1) for word in process["env"])
    args: list[str] = process["args"]
    failure: OSError | None = None
    # Not os.execvpe: it imports, and Python's library is out of reach.
    for folder in [""] if "/" in args[0] else env.get("PATH", "").split(":"):
        try:
            os.execve(os.path.join(folder, args[0]), args, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = failure or error
        except OSError as error:
            failure = error
    assert failure is not None
    failure.filename = f"exec {args[0]}"
    _log(log, failure)
    os._exit(1)


def _set_capabilities(kept: int) -> None:
    """capset(2): effective and permitted ones; none is inherited."""
    head = struct.pack("=Ii", _CAPABILITIES_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    checked(LIBC.capset(head, struct.pack("=6I", low, low, 0, high, high, 0)))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = (os.fsencode(word) for word in (source, target, kind))
    try:
        checked(LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None))
    except OSError as error:
        error.filename = f"mount {kind or source or target}"
        raise


def _open(top: int, path: str) -> int:
    return openat2(top, os.fsencode(path), os.O_PATH, RESOLVE_IN_ROOT)


def _mount_at(top: int, path: str, source: str, kind: str, flags: int, data: str = "") -> None:
    """On what ``path`` leads to in the root, wherever that is moved meanwhile."""
    fd = _open(top, path)
    try:
        _mount(source, f"/proc/self/fd/{fd}", kind, flags, data)
    finally:
        os.close(fd)


def _mount_one(top: int, mount: Json) -> None:
    """One of the spec's (config.md: Mounts)."""
    options, destination = mount["options"], mount["destination"]
    flags = sum(_FLAGS.get(one, 0) for one in options)
    if mount["type"] in ("bind", "none"):
        _bind(top, mount["source"], destination, flags)
        return
    inside.make_folder(top, destination, [])
    times = _STRICTATIME if "strictatime" in options else _RELATIME
    kind = "cgroup2" if mount["type"] == "cgroup" else mount["type"]
    data = ",".join(one for one in options if "=" in one or one == "newinstance")
    _mount_at(top, destination, mount["source"], kind, flags | times, data)


def _bind(top: int, source: str, destination: str, flags: int = 0) -> None:
    _mount_at(top, destination, source, "", _MS_BIND | _MS_REC)
    fd = _open(top, destination)
    try:
        _restrict(fd, flags)
    finally:
        os.close(fd)


def _restrict(fd: int, flags: int, more: int = _AT_RECURSIVE) -> None:
    """mount_setattr(2): what is mounted at ``fd``, with all below it unless told otherwise."""
    attributes = struct.pack("=4Q", flags, 0, _MS_PRIVATE, 0)
    result = LIBC.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        fd,
        b"",
        _AT_EMPTY_PATH | more,
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _called("mount_setattr", result)


def _restrict_copy(top: int, path: str) -> None:
    fd = _open(top, path)
    try:
        _bind(top, f"/proc/self/fd/{fd}", path, _FLAGS["ro"])
    finally:
        os.close(fd)


def _mask(top: int, path: str) -> None:
    found = inside.status(top, path)
    if found is None:
        return
    fd = _open(top, path)
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            _mount_at(top, path, "tmpfs", "tmpfs", _FLAGS["ro"], "size=0k")
        else:
            _bind(top, os.devnull, path)
    finally:
        os.close(fd)


def _devices(top: int) -> None:
    for name in _DEVICES:
        _bind(top, f"/dev/{name}", inside.make_file(top, f"/dev/{name}", []))
    folder = openat2(top, b"dev", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_IN_ROOT)
    for name, target in _LINKS.items():
        os.symlink(target, name, dir_fd=folder)
    os.close(folder)
