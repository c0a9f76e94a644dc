"""Ordinary files are made behind, as if they were made one after the other."""

from __future__ import annotations

import os
import random
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.errors import ArchiveError, OperationError
from reflayer.workers.pool import shared_pool
from tests.archive.tars import apply, entry, folder, tar
from tests.file_systems import mounted, require_root

_SOURCE = str(Path(__file__).parents[2] / "src")
MiB = 1 << 20
PlaceOn = Callable[[str], Path]
MANY = [entry(f"many/{n}", bytes([n % 256]) * 20_000) for n in range(300)]  # so that threads start


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("seed", range(4))
def test_of_names_that_come_again_the_last_stays(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    wanted: dict[str, bytes | str] = {}
    entries = []
    for number in range(4000):
        name = f"{chance.randrange(40)}/{chance.randrange(30)}"
        if chance.random() < 0.8:
            data = chance.randbytes(chance.choice((0, 100, 3000, 9000)))
            data += bytes(chance.choice((0, 0, 0, 10_000)))
            wanted[name] = data
            entries.append(entry(name, data, mtime=number))
        else:
            wanted[name] = f"target {number}"
            entries.append(entry(name, kind="symlink", target=f"target {number}"))
    apply(tmp_path, tar(*entries))
    there = {str(path.relative_to(tmp_path)): path for path in tmp_path.glob("*/*")}
    found = {
        name: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for name, path in there.items()
    }
    assert found == wanted


@pytest.mark.parametrize("by", ["a", "link"])
def test_no_path_leads_through_what_a_file_has_replaced(tmp_path: Path, by: str) -> None:
    entries = [folder("a"), entry("link", kind="symlink", target="a"), entry(f"{by}/x")]
    with pytest.raises(ArchiveError, match=f"{by}/y: .*Not a directory"):
        apply(tmp_path, tar(*MANY, *entries, entry("a"), entry(f"{by}/y"), *MANY))
    assert (tmp_path / "a").is_file()


def test_a_file_that_is_made_behind_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"a/x: .*Not a directory"):
        apply(tmp_path, tar(*MANY, entry("a"), entry("a/x"), *MANY))


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_files_have_all_that_their_entries_say(place_on: PlaceOn, kind: str) -> None:
    require_root()
    root = place_on(kind)
    modes = (0, 0o444, 0o600, 0o666, 0o777, 0o4755, 0o2755, 0o1644)
    times = (0, 1, 1_000_000_000, 2**31 - 1)
    files = [
        entry(
            f"dir/{mode:o} {owner} {time}", b"x" * 100, mode=mode, uid=owner, gid=owner, mtime=time
        )
        for mode in modes
        for owner in (0, 1234, 4_000_000_000)
        for time in times
    ]
    holes = [entry(f"dir/holes {n}", b"x" * n + bytes(20_000) + b"x") for n in (0, 1, 4095, 4096)]
    before = folder("dir", mode=0o750, mtime=77)
    apply(root, tar(*MANY, before, *files, *holes, entry("dir/old", mtime=-5), *MANY))
    for info, data in files:
        status = os.stat(root / info.name)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (
            info.mode,
            info.uid,
            info.gid,
            info.mtime,
        )
        assert (root / info.name).read_bytes() == data
    for info, data in holes:
        assert (root / info.name).read_bytes() == data
        assert os.stat(root / info.name).st_blocks * 512 < 20_000
    assert os.stat(root / "dir/old").st_mtime == -5
    assert os.stat(root / "dir").st_mtime == 77


def test_a_full_disk_is_told_of_the_file_that_has_no_room(tmp_path: Path) -> None:
    entries = [entry(f"dir/{n}", b"x" * 60_000) for n in range(200)]
    with mounted("tmpfs", tmp_path, 4 * MiB) as root:
        with pytest.raises(OperationError, match=r"dir/\d+: .*No space left on device") as error:
            apply(root, tar(*entries))
        failed = Path(os.fsdecode(error.value.path))
        assert not failed.exists() or failed.stat().st_blocks * 512 < 60_000
        assert len(os.listdir(root / "dir")) > 50


def test_what_fails_as_its_folder_is_shut_is_told_of_the_file(tmp_path: Path) -> None:
    others = [folder(f"other {n}") for n in range(100)]
    with pytest.raises(ArchiveError, match=f"a/{'x' * 300}: .*File name too long"):
        apply(tmp_path, tar(folder("a"), entry(f"a/{'x' * 300}"), *others))


def test_few_descriptors_are_enough_for_many_folders(tmp_path: Path) -> None:
    """Layers that are applied side by side share them: on a large machine, many layers."""
    entries = [entry(f"{n % 100}/{n}", b"content") for n in range(300)]
    _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, most))
    try:
        apply(tmp_path, tar(*entries))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len([*tmp_path.glob("*/*")]) == 300


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("later", ["many/0/x", "many/" + "y" * 300])
def test_of_several_errors_the_first_is_told(tmp_path: Path, later: str) -> None:
    first, last = entry("x" * 300), entry(later, kind="symlink", target="a")
    with pytest.raises(ArchiveError, match=f"^{'x' * 300}: .*File name too long"):
        apply(tmp_path, tar(*MANY, first, last))


def test_an_interrupt_leaves_no_thread_and_no_place_in_the_pool_taken(tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        if count > 3 * MiB:
            raise KeyboardInterrupt

    is_free = shared_pool().is_free()
    with pytest.raises(KeyboardInterrupt):
        apply(tmp_path, tar(*MANY), progress=interrupt)
    assert shared_pool().is_free() == is_free
    assert not [t for t in threading.enumerate() if t.name.startswith("reflayer")]


def test_an_archive_that_is_applied_imports_nothing_heavy() -> None:
    """What it takes to import them is more than the time of a small layer."""
    code = "import sys; from reflayer.archive import apply_layer; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {_SOURCE!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {"ctypes", "dataclasses", "inspect", "re"}.isdisjoint(done.stdout.split())
