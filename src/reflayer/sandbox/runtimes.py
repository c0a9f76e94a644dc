"""The programs that run a bundle: crun, runc, bubblewrap, or ``namespaces.py`` of our own.

The first that is there does it. bubblewrap knows one user only, root with root's group: for
another it is passed over. So is an OCI runtime that could not keep root from the devices that an
image may have, since it gets no cgroup here. What each keeps apart is told by ``reflayer doctor``.
"""

from __future__ import annotations

import os
import sys

from reflayer.errors import SandboxError
from reflayer.record import record
from reflayer.sandbox.spec import Rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Json = dict[str, Any]

NAMES = ("crun", "runc", "bwrap", "namespaces")
"""Best first; the last is always there."""

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from reflayer.sandbox.namespaces import main; main(*sys.argv[2:])"
)
_CONSOLE = ".tty"
_BOTH = (
    "keeps apart processes, mounts, IPC and host name, and the network with --network none; hides "
    "what Docker hides of /proc and /sys"
)


@record
class Runtime:
    """A program that runs bundles."""

    name: str  # one of NAMES
    program: str  # its path

    @property
    def is_oci(self) -> bool:
        return self.name in ("crun", "runc")


def find(name: str | None = None, *, is_root: bool = True, is_mapped: bool = False) -> Runtime:
    """The runtime that is called ``name``, or the best that can run something, as root or another.

    With ``is_mapped`` in a user namespace with ids of its own, which OCI runtimes alone can.

    Raises:
        SandboxError: it is not there, or cannot.
    """
    if name is not None and name not in NAMES:
        raise ValueError(f"runtime {name!r} is none of {', '.join(NAMES)}")
    rights = Rights.of_this_process()
    for one in NAMES if name is None else (name,):
        program = sys.executable if one == "namespaces" else _which(one)
        if not program or (one == "bwrap" and not is_root):
            continue
        runtime = Runtime(one, program)
        if is_mapped and not runtime.is_oci:
            continue
        if name is None and _why_not(runtime, rights):
            continue
        return runtime
    if is_mapped:
        raise SandboxError("a container with a map of ids is run by crun or runc alone")
    if name == "bwrap" and _which(name):
        raise SandboxError("bubblewrap runs a container's root alone: -u 0, or another --runtime")
    raise SandboxError(f"the program {name} is not there")


def passed_over(runtime: Runtime) -> dict[str, str]:
    """Those that are better than the one that ``find`` found, and why each does not do."""
    rights = Rights.of_this_process()
    better = [Runtime(name, _which(name)) for name in NAMES[: NAMES.index(runtime.name)]]
    return {one.name: _why_not(one, rights) for one in better}


def _why_not(runtime: Runtime, rights: Rights) -> str:
    if not runtime.program:
        return "it is not installed"
    if _is_refused(runtime):
        return "it runs nothing where cgroups of versions 1 and 2 are mounted beside each other"
    if runtime.is_oci and rights.is_root and not rights.cgroups:
        return "it gets no cgroup here, without which root could use the devices of an image"
    return ""


def has_cgroups(runtime: Runtime, rights: Rights) -> bool:
    """Whether it makes a cgroup, which tells the devices that may be used.

    crun runs nothing where there are both kinds of them (cgroups(7), "version 1 and 2").
    """
    return runtime.is_oci and rights.cgroups and not _is_refused(runtime)


def _is_refused(runtime: Runtime) -> bool:
    return runtime.name == "crun" and os.path.ismount("/sys/fs/cgroup/unified")


def fit(config: Json, runtime: Runtime) -> None:
    """Take from a spec what ``runtime`` cannot have without a cgroup."""
    if has_cgroups(runtime, Rights.of_this_process()):
        return
    config["linux"].pop("resources", None)
    for kind, names in config["process"]["capabilities"].items():
        config["process"]["capabilities"][kind] = [n for n in names if n != "CAP_MKNOD"]


def _which(name: str) -> str:
    # Not shutil: its import takes longer than this. Administrators' folders are not always told.
    for folder in (*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin", "/sbin"):
        path = f"{folder}/{name}"
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def running(
    runtime: Runtime, states: str, bundle: str, id: str, config: Json, info: int
) -> list[str]:
    """The command that runs the bundle in the foreground, its standard streams our own.

    What is no OCI runtime writes to the descriptor ``info`` which process its first one is, and
    bubblewrap in another line with which status that has ended, if it came to be.
    """
    if runtime.is_oci:
        told = _console(runtime, f"{bundle}/run") if config["process"]["terminal"] else []
        return [*_oci(runtime, states, f"{bundle}/log"), "run", *told, "--bundle", bundle, id]
    if runtime.name == "bwrap":
        return [runtime.program, *_bubblewrap(config, info)]
    return _own(runtime, "run", bundle, f"{bundle}/log", str(info))


def executing(
    runtime: Runtime, states: str, bundle: str, id: str, process: str, log: str, *, terminal: bool
) -> list[str]:
    """The command that runs what the file ``process`` tells beside; errors go to ``log``."""
    if runtime.is_oci:
        told = _console(runtime, process) if terminal else []
        return [*_oci(runtime, states, log), "exec", *told, "--process", process, id]
    return _own(Runtime("namespaces", sys.executable), "exec", bundle, log, process)


def ending(runtime: Runtime, states: str, bundle: str, id: str) -> list[str]:
    """The command that ends what still runs; none where that ends with its starter."""
    if runtime.is_oci:
        return [*_oci(runtime, states, f"{bundle}/log"), "delete", "--force", id]
    return []


def console_of(runtime: Runtime, path: str) -> str:
    """The socket, beside the file ``path``, over which the terminal of what it tells of comes.

    It is empty where the command gets ours: runc hands none over to who waits for it.
    """
    return f"{path}{_CONSOLE}" if runtime.name == "crun" else ""


def _console(runtime: Runtime, path: str) -> list[str]:
    socket = console_of(runtime, path)
    return [f"--console-socket={socket}"] if socket else []


def _oci(runtime: Runtime, states: str, log: str) -> list[str]:
    told = [f"--root={states}", f"--log={log}", "--log-format=json"]
    rights = Rights.of_this_process()
    if runtime.name == "crun" and not has_cgroups(runtime, rights):
        told.append("--cgroup-manager=disabled")
    if runtime.name == "runc" and not rights.is_root:
        told.append("--rootless=true")
    return [runtime.program, *told]


def _own(runtime: Runtime, *words: str) -> list[str]:
    python = [runtime.program, "-I", "-S", "-X", "utf8=1", "-c", _CODE, _PACKAGES]
    return [*python, *words]


def _bubblewrap(config: Json, info: int) -> list[str]:
    """A bundle in the words of bwrap(1)."""
    process, root, linux = config["process"], config["root"], config["linux"]
    kinds = {one["type"] for one in linux["namespaces"]}
    words = [
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", config["hostname"], "--die-with-parent", "--as-pid-1"),
        *("--json-status-fd", str(info)),
    ]
    if "user" in kinds:
        words += ["--unshare-user", "--uid", "0", "--gid", "0"]
    if "network" in kinds:
        words.append("--unshare-net")
    words += ["--ro-bind" if root["readonly"] else "--bind", root["path"], "/"]
    words += ["--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]
    words += ["--perms", "1777", "--tmpfs", "/dev/shm"]
    for mount in config["mounts"]:
        if mount["type"] == "bind" or mount["destination"] == "/sys":
            bind = "--ro-bind" if "ro" in mount["options"] else "--bind"
            source = "/sys" if mount["type"] == "sysfs" else mount["source"]
            words += [bind, source, mount["destination"]]
    for path in linux["maskedPaths"]:
        if os.path.isdir(path):
            words += ["--perms", "0555", "--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            words += ["--ro-bind", os.devnull, path]
    for path in linux["readonlyPaths"]:
        words += ["--ro-bind-try", path, path]
    words.append("--clearenv")
    for variable in process["env"]:
        words += ["--setenv", *variable.split("=", 1)]
    words += ["--chdir", process["cwd"], "--cap-drop", "ALL"]
    for capability in process["capabilities"]["effective"]:
        words += ["--cap-add", capability]
    return [*words, "--", *process["args"]]


def isolation(runtime: Runtime) -> Sequence[str]:
    """What it keeps apart, and what it does not, in lines for a person."""
    rights = Rights.of_this_process()
    users = "users: the host's" if rights.is_root else "users: those of a user namespace"
    if runtime.is_oci:
        devices = "devices: by cgroup" if has_cgroups(runtime, rights) else "no devices can be made"
        return (_BOTH, f"capabilities: Docker's; system calls: by seccomp; {devices}", users)
    if runtime.name == "bwrap":
        return (
            _BOTH,
            "capabilities: Docker's but mknod; no setuid programs; system calls: all",
            users,
        )
    return (_BOTH, "capabilities: Docker's but mknod; system calls: all", users)
