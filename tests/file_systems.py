"""Loop-mounted file systems for tests: made with the real mkfs programs, gone afterwards."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

MKFS = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
}
"""The program that makes each file system, with its options."""

_SIZE = 1 << 30
_IN_CI = os.environ.get("CI") == "true"


@cache
def users_folders() -> dict[str, Path]:
    """Where an ordinary user can make files: a folder on each kind of file system there is.

    ``PLACES`` may name folders before those that all machines have, with colons between.
    """
    folders = [*filter(None, os.environ.get("PLACES", "").split(":"))]
    found: dict[str, Path] = {}
    for folder in (*folders, tempfile.gettempdir(), "/var/tmp", "/dev/shm"):
        if os.access(folder, os.W_OK):
            told = ["stat", "--file-system", "--format=%T", folder]
            kind = subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()
            found.setdefault("ext4" if kind == "ext2/ext3" else kind, Path(folder))
    return found


def kinds() -> list[str]:
    """The kinds of file systems that tests are given: those that root mounts, or a user has."""
    return [*MKFS, "tmpfs"] if os.geteuid() == 0 else sorted(users_folders(), reverse=True)


def require_root() -> None:
    """Skip the test without root; under CI that is a failure."""
    if os.geteuid() != 0:
        miss("it needs root")


def require(*programs: str) -> None:
    """Skip the test where a program is not installed; under CI that is a failure."""
    for program in programs:
        if shutil.which(program) is None:
            miss(f"it needs the program {program}")


def require_folder(path: str) -> None:
    """Skip the test where a folder of some package is missing; under CI that is a failure."""
    if not os.path.isdir(path):
        miss(f"it needs the folder {path}")


def require_native() -> None:
    """Skip the test where the part in C was not compiled; under CI that is a failure."""
    if importlib.util.find_spec("reflayer.linux._names") is None:
        miss("it needs the part in C")


def require_module(name: str) -> None:
    """Skip the test where a library is not installed; under CI that is a failure."""
    if importlib.util.find_spec(name) is None:
        miss(f"it needs the library {name}")


def miss(reason: str) -> None:
    if _IN_CI:
        pytest.fail(f"nothing is skipped under CI: {reason}")
    pytest.skip(reason)


@contextmanager
def mounted(
    kind: str, folder: Path, size: int = _SIZE, *, features: str = "", options: str = "loop"
) -> Iterator[Path]:
    """A new file system of ``kind`` (a key of ``MKFS``, or ``tmpfs``) mounted below ``folder``.

    ``features`` is for mkfs's option -O, ``options`` for mount's -o.
    """
    require_root()
    place = folder / kind
    place.mkdir(parents=True)
    if kind == "tmpfs":
        source = ["-t", "tmpfs", "-o", f"size={size},nr_inodes={size >> 13}", "tmpfs"]
    else:
        require(MKFS[kind][0], "mount")
        image = folder / f"{kind}.img"
        with open(image, "wb") as file:
            file.truncate(size)
        more = ["-O", features] if features else []
        subprocess.run([*MKFS[kind], *more, str(image)], check=True, capture_output=True)
        source = ["-o", options, str(image)]
    subprocess.run(["mount", *source, str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False, capture_output=True)
        if os.path.ismount(place):
            subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)
        if kind != "tmpfs":
            os.unlink(image)


@contextmanager
def shut_mount(point: Path, kind: str) -> Iterator[None]:
    """Mount on the file or folder ``point`` what nobody may look into (mount(2), linux/fuse.h).

    It is ``dead``, since what served it has ended, or ``foreign``: only another user's.
    """
    require_root()
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        miss(f"/dev/fuse: {error.strerror}")
    mode = stat.S_IFMT(os.stat(point).st_mode)
    user = 1000 if kind == "foreign" else 0
    options = f"fd={fd},rootmode={mode:o},user_id={user},group_id={user}"
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.mount(b"shut", os.fsencode(point), b"fuse", 0, os.fsencode(options)):
            miss(f"mount fuse: {os.strerror(ctypes.get_errno())}")
        if kind == "dead":
            os.close(fd)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)
        if kind != "dead":
            os.close(fd)


def fill_up(place: Path, *, only_inodes: bool = False) -> None:
    """Leave no block of a file system free, and no inode; or ``only_inodes``."""
    made = itertools.count()
    while True:
        before = next(made)
        with suppress(OSError), open(place / "full", "ab", buffering=0) as file:
            for size in () if only_inodes else (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
                        next(made)
        with suppress(OSError):
            (place / "names").mkdir(exist_ok=True)
            while True:
                number = next(made)
                os.close(os.open(place / f"names/{number}", os.O_CREAT | os.O_EXCL))
        os.sync()
        if next(made) - before <= 3:
            return
