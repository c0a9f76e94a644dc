"""The ``config.json`` of a bundle (OCI runtime-spec, config.md and config-linux.md).

Mounts, capabilities, hidden paths and devices are Docker's. Who is not root, and in no user
namespace that has more, is root alone; what the kernel then refuses is left out.
"""

from __future__ import annotations

import os
import stat

from reflayer.errors import ArchiveError, SandboxError, failing, printable
from reflayer.record import record
from reflayer.sandbox import inside
from reflayer.sandbox.process import Process, Volume, Wanted, process_of, volumes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reflayer.walk.id_map import IdMap

    Json = dict[str, object]

CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW"),
    *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
    *("CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
)
_HIDDEN = "acpi asound interrupts kcore keys latency_stats timer_list timer_stats sched_debug scsi"
_MASKED = [f"/proc/{name}" for name in _HIDDEN.split(" ")]
_MASKED += ["/sys/firmware", "/sys/devices/virtual/powercap"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_REFUSED = (  # what no container has to do with, and Docker's list of allowed calls lacks
    "acct add_key bpf clock_adjtime clock_settime delete_module fanotify_init finit_module "
    "fsconfig fsmount fsopen fspick get_mempolicy init_module ioperm iopl kcmp kexec_file_load "
    "kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount "
    "move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open "
    "pivot_root quotactl quotactl_fd reboot request_key "
    "set_mempolicy setns settimeofday stime swapoff swapon _sysctl sysfs syslog umount umount2 "
    "unshare uselib userfaultfd ustat vhangup vm86 vm86old io_uring_enter io_uring_register "
    "io_uring_setup"
)
_EPERM = 1
_ENOSYS = 38  # with which the C library asks clone(2) in place of clone3(2), whose flags are hidden
_CLONE_NEWUSER = 0x10000000
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_ALL_IDS = "4294967295"


@record
class Rights:
    """What this process may do, as far as a container's spec depends on it.

    Attributes:
        uid, gid: its own.
        is_root: it has all that root has.
        nested: it is root of a user namespace, whose ids are not all there are.
        cgroups: it can make cgroups.
    """

    uid: int
    gid: int
    is_root: bool
    nested: bool
    cgroups: bool

    @classmethod
    def of_this_process(cls) -> Rights:
        uid = os.geteuid()
        with open("/proc/self/uid_map") as file:
            is_all = file.read().split() == ["0", "0", _ALL_IDS]
        is_root = uid == 0 and is_all
        cgroups = is_root and os.access("/sys/fs/cgroup", os.W_OK)
        return cls(uid, os.getegid(), is_root, uid == 0 and not is_all, cgroups)


@record
class Bundle:
    """A spec, and what it took.

    Attributes:
        config: the content of ``config.json``.
        process: what is run.
        made: what was made in the container to be mounted on.
    """

    config: Json
    process: Process
    made: list[inside.Made]


def bundle_of(
    path: str,
    name: str,
    image: Mapping[str, object],
    wanted: Wanted,
    hosts: str,
    id_map: IdMap | None = None,
) -> Bundle:
    """The bundle that runs something in the container at ``path``.

    The working directory, the folders of volumes, and what is to be mounted on are made where they
    are missing.

    Args:
        path: its root, absolute.
        name: its host name.
        image: its image's config (OCI image-spec, config.md), or what is in the place of one.
        wanted: what is to be run, and how.
        hosts: a file, the container's ``/etc/hosts`` where it has not the host's network.
        id_map: that of the user namespace that it is to have, which its files were made for.

    Raises:
        SandboxError: it cannot be run so.
        OperationError: something in the container cannot be read or made.
    """
    settings = image.get("config")
    settings = settings if isinstance(settings, dict) else {}
    rights = Rights.of_this_process()
    made: list[inside.Made] = []
    stays: list[inside.Made] = []
    with failing(path, "open"):
        root = inside.open_root(path)
    try:
        with failing(path, "prepare"):
            process = process_of(settings, wanted, root, name)
            inside.make_folder(root, process.cwd, stays)
            mounts = [*_mounts(root, rights, wanted, made, id_map)]
            volumes = [*_names(wanted, hosts), *_volumes(root, path, settings, wanted, stays)]
            mounts += [_bind(root, volume, made) for volume in volumes]
            if id_map is not None:
                inside.give(root, [*stays, *made], *id_map.root)
    finally:
        os.close(root)
    namespaces = ["pid", "ipc", "uts", "mount"]
    if wanted.network == "none":
        namespaces.append("network")
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        namespaces.append("cgroup")
    linux: Json = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
        "seccomp": _seccomp(),
    }
    if rights.uid:
        linux["namespaces"] = [{"type": kind} for kind in ("user", *namespaces)]
        linux["uidMappings"], linux["gidMappings"] = (
            [{"containerID": 0, "hostID": own, "size": 1}] for own in (rights.uid, rights.gid)
        )
    elif id_map is not None:
        linux["namespaces"] = [{"type": kind} for kind in ("user", *namespaces)]
        linux["uidMappings"], linux["gidMappings"] = (
            [
                {"containerID": one.container_id, "hostID": one.host_id, "size": one.size}
                for one in ranges
            ]
            for ranges in (id_map.uids, id_map.gids)
        )
    if rights.cgroups:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    config: Json = {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": path, "readonly": wanted.read_only},
        "process": process_json(process, rights, id_map),
        "mounts": mounts,
        "linux": linux,
    }
    return Bundle(config, process, made)


def process_json(process: Process, rights: Rights, id_map: IdMap | None = None) -> Json:
    """A process (runtime-spec, config.md: Process)."""
    user = process.user
    known = _known(rights)
    groups = user.groups
    if id_map is not None:
        known = None
        for number in (0, *groups):
            try:
                id_map.to_host(user.uid, number or user.gid)
            except ArchiveError as error:
                raise SandboxError(f"by the map of the container: {error.reason}") from error
    if known is not None:
        from reflayer.linux.user_namespace import why_none

        for what, number, ids in (("user", user.uid, known[0]), ("group", user.gid, known[1])):
            if number >= ids:
                why = rights.uid and (
                    why_none() or "a program started by reflayer unshare has more"
                )
                raise SandboxError(
                    f"there is no {what} {number} here, but {ids} of them: -u 0 does without"
                    + (f"; {why}" if why else "")
                )
        groups = tuple(one for one in groups if one < known[1]) if known[1] > 1 else ()
    granted = CAPABILITIES if user.uid == 0 else ()
    capabilities = {"bounding": CAPABILITIES, "effective": granted, "permitted": granted}
    size = {}
    if process.terminal:
        from reflayer.sandbox.terminal import console_size

        size = console_size()
    return {
        "terminal": process.terminal,
        **({"consoleSize": size} if size else {}),
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": 0o022,
            **({"additionalGids": list(groups)} if groups else {}),
        },
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": capabilities,
        "noNewPrivileges": False,
    }


def _known(rights: Rights) -> tuple[int, int] | None:
    """How many users and groups there are, from 0 on; None: all."""
    if rights.is_root:
        return None
    if rights.nested:
        ends = []
        for kind in ("uid", "gid"):
            with open(f"/proc/self/{kind}_map") as file:
                rows = [[int(word) for word in line.split()] for line in file]
            ends.append(max(inner + count for inner, _, count in rows))
        return ends[0], ends[1]
    return 1, 1


def _mounts(
    root: int, rights: Rights, wanted: Wanted, made: list[inside.Made], id_map: IdMap | None
) -> Iterator[Json]:
    """What every container has."""

    def mount(destination: str, kind: str, source: str, options: str) -> Json:
        return {
            "destination": destination,
            "type": kind,
            "source": source,
            "options": options.split(),
        }

    for folder in ("/proc", "/dev", "/sys"):
        if inside.make_folder(root, folder, made) != folder:
            raise SandboxError(f"{folder} is a link in the container: nothing is mounted there")
    yield mount("/proc", "proc", "proc", "nosuid noexec nodev")
    yield mount("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k")
    known = _known(rights)
    owner = " gid=5" if known is None or known[1] > 5 else ""
    if id_map is not None and not id_map.has_group(5):
        owner = ""
    options = f"nosuid noexec newinstance ptmxmode=0666 mode=0620{owner}"
    yield mount("/dev/pts", "devpts", "devpts", options)
    yield mount("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k")
    yield mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev")
    if (rights.is_root and id_map is None) or wanted.network == "none":
        yield mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro")
        if rights.cgroups and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            yield mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro")
    else:  # whose network is not ours to show
        yield mount("/sys", "none", "/sys", "rbind nosuid noexec nodev ro")


def _names(wanted: Wanted, hosts: str) -> Iterator[Volume]:
    """By what names of hosts are looked up, unless something else is to be seen there."""
    sources = {"/etc/hosts": hosts}
    if wanted.network == "host":
        sources = {path: path for path in ("/etc/resolv.conf", "/etc/hosts")}
    taken = [volume.destination for volume in wanted.volumes]
    for path, source in sources.items():
        if os.path.isfile(source) and path not in taken:
            yield Volume(source, path, read_only=True)


def _volumes(
    root: int,
    path: str,
    settings: Mapping[str, object],
    wanted: Wanted,
    made: list[inside.Made],
) -> Iterator[Volume]:
    """The folders that the image says are volumes, where they are not writable anyway; the others.

    Those above others come first.
    """
    given = {volume.destination for volume in wanted.volumes}
    if len(given) < len(wanted.volumes):
        raise SandboxError("two volumes are to be seen at one path")
    own = [one for one in volumes_of(settings) if os.path.normpath(one) not in given]
    volumes = [*wanted.volumes]
    for one in own:
        really = inside.make_folder(root, one, made)
        if wanted.read_only:
            volumes.append(Volume(path + really, one))
    return iter(sorted(volumes, key=lambda volume: volume.destination.count("/")))


def _bind(root: int, volume: Volume, made: list[inside.Made]) -> Json:
    with failing(volume.source, "mount"):
        is_folder = stat.S_ISDIR(os.stat(volume.source).st_mode)
    if volume.destination == "/":
        raise SandboxError(f"{printable(volume.source)}: nothing is mounted on / itself")
    options = ["rbind", "rprivate", "ro" if volume.read_only else "rw"]
    if is_folder:
        destination = inside.make_folder(root, volume.destination, made)
    else:
        destination = inside.make_file(root, volume.destination, made)
    return {
        "destination": destination,
        "type": "bind",
        "source": volume.source,
        "options": options,
    }


def _seccomp() -> Json:
    refused: Json = {"names": _REFUSED.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}
    flag = {"index": 0, "value": _CLONE_NEWUSER, "valueTwo": _CLONE_NEWUSER}
    clone = {**refused, "names": ["clone"], "args": [{**flag, "op": "SCMP_CMP_MASKED_EQ"}]}
    clone3 = {**refused, "names": ["clone3"], "errnoRet": _ENOSYS}
    seccomp: Json = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [refused, clone, clone3],
    }
    if architectures := _ARCHITECTURES.get(os.uname().machine):
        seccomp["architectures"] = architectures
    return seccomp
