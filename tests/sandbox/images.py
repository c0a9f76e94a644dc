"""Images in which something runs, and the program run on them by each runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.archive.tars import Entry, entry, folder, tar
from tests.file_systems import require
from tests.images.layouts import Layout

RUNTIMES = ("crun", "runc", "bwrap", "namespaces")
BUSYBOX = Path("/usr/bin/busybox")
_NAMES = (
    *("cat", "echo", "env", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "mknod"),
    *("mount", "ps", "pwd", "sh", "sleep", "stat", "test", "touch", "true", "unshare"),
)
_PASSWD = b"root:x:0:0::/root:/bin/sh\nbad line\nweb:x:101:102::/srv/web:/bin/sh\n"
_GROUP = b"root:x:0:\nwww:x:102:\nextra:x:103:other,web\n"

# crun runs nothing where cgroups of both versions are mounted, as on the machines of some clouds.
_ONE_VERSION = (
    "mount --make-rprivate /; "
    "if mountpoint -q /sys/fs/cgroup/unified; then umount -l /sys/fs/cgroup/unified; fi; "
    'exec "$@"'
)


def base(*more: Entry) -> bytes:
    """The layer of a small system."""
    require("busybox")
    return tar(
        folder("./"),
        folder("bin"),
        entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(entry(f"bin/{name}", kind="symlink", target="busybox") for name in _NAMES),
        folder("etc"),
        entry("etc/passwd", _PASSWD),
        entry("etc/group", _GROUP),
        folder("root"),
        folder("tmp", mode=0o1777),
        *more,
    )


def image(path: Path, *more: Entry, **settings: object) -> str:
    """What a user calls an image of ``base`` with these settings, in a new layout."""
    layout = Layout(path)
    config = {"Env": ["PATH=/bin"], **settings}
    layout.index(latest=layout.image(base(*more), config=config))
    return f"oci:{path}:latest"


def command(root: Path, *words: str) -> list[str]:
    """The program on the store at ``root``, where every runtime works."""
    return in_one_version(sys.executable, "-m", "reflayer", "--root", str(root), *words)


def in_one_version(*words: str) -> list[str]:
    """The command where root has cgroups of one version alone."""
    if os.geteuid() != 0:
        return [*words]
    return ["unshare", "--mount", "sh", "-c", _ONE_VERSION, "sh", *words]


def reflayer(
    root: Path, *words: str, typed: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(
        command(root, *words),
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **more},
    )


def require_runtime(runtime: str) -> None:
    """Skip the test where it is not there, or cannot run here."""
    if runtime != "namespaces":
        require(runtime)
    require("busybox", "unshare")


def lines(done: subprocess.CompletedProcess[str]) -> Sequence[str]:
    """What a program that did not fail has printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def nothing_runs(root: Path) -> bool:
    """Whether all is cleared that running takes in a store."""
    running = root / "running"
    states = {*os.listdir(running / ".state")} - {".cache"}  # of crun's, for all containers
    return {*os.listdir(running)} <= {".hosts", ".state"} and not states
